// Memory layouts that every kernel family shares.
//
//   activation  u8 or s8  [tile][K/4][32 tokens][4 channels]   input of every product; queries and keys
//   residual    f32       [tile][H][32 tokens]                 channel major, so that norms are vertical
//   value       s8        [channel][token]                     four tokens of a channel are one 32-bit word
//   accumulator i32       [row][32 tokens]                     at most kRowBlock rows of one tile
//
// A token is a row of the ragged batch; token t lives in tile t / kTile, lane t % kTile. Buffers are
// 64-byte aligned and hold whole tiles; lanes past the last token may be read, written and hold anything.
#pragma once
#include <cstddef>
#include <cstdint>

namespace secateur {

inline constexpr int32_t kTile = 32;      // tokens in a tile
inline constexpr int32_t kRowBlock = 64;  // output rows in a block; the last block of a matrix may be shorter
inline constexpr int32_t kBlock = 4;      // weights in a block4 block, channels in a packed word

}  // namespace secateur
