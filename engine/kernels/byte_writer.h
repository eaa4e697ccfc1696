// Bytes that grow at their end: what a pack function writes section by section.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace secateur {

class ByteWriter {
 public:
  void align(size_t to) { bytes_.resize((bytes_.size() + to - 1) / to * to); }
  template <class T>
  void put(const T& value) {
    const size_t at = bytes_.size();
    bytes_.resize(at + sizeof(T));
    std::memcpy(bytes_.data() + at, &value, sizeof(T));
  }
  template <class T>
  void put_at(size_t at, const T& value) {
    std::memcpy(bytes_.data() + at, &value, sizeof(T));
  }
  void skip(size_t count) { bytes_.resize(bytes_.size() + count); }
  size_t size() const { return bytes_.size(); }
  const uint8_t* data() const { return bytes_.data(); }

 private:
  std::vector<uint8_t> bytes_;
};

}  // namespace secateur
