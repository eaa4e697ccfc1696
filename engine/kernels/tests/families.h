// One test a kernel family; each adds a line for every kernel of its kernels.inc.
#pragma once
#include "kernels/tests/check.h"

namespace secateur::tests {

void test_products(Report& report);       // spmm_u8s8 and gemm_u8s8
void test_products_f32(Report& report);   // spmm_f32 and gemm_f32
void test_products_bf16(Report& report);  // spmm_bf16, gemm_bf16 and round_bf16
void test_epilogue(Report& report);
void test_quantize_rows(Report& report);
void test_attention(Report& report);
void test_attention_f32(Report& report);
void test_layer_norm(Report& report);
void test_embedding(Report& report);
void test_dot(Report& report);
void test_peak(Report& report);

}  // namespace secateur::tests
