// secateur_kernel_test [part of a kernel's name]: checks every kernel this CPU can run.
//
// Every kernel of every kernels.inc is compared with its family's reference bit for bit, and with a plain
// formula in integers or doubles, which checks the reference itself.
#include "kernels/tests/families.h"

int main(int argc, char** argv) {
  secateur::tests::Report report(argc > 1 ? argv[1] : "");
  secateur::tests::test_products(report);
  secateur::tests::test_products_f32(report);
  secateur::tests::test_products_bf16(report);
  secateur::tests::test_epilogue(report);
  secateur::tests::test_quantize_rows(report);
  secateur::tests::test_attention(report);
  secateur::tests::test_attention_f32(report);
  secateur::tests::test_layer_norm(report);
  secateur::tests::test_embedding(report);
  secateur::tests::test_dot(report);
  secateur::tests::test_peak(report);
  return report.finish();
}
