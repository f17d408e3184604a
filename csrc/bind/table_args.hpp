// Keys, ids and records of the L1 table as packed Python bytes. Shared by its binding tables.
#pragma once

#include <pybind11/pybind11.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/table_types.hpp"

namespace penstock::bind {

// Packed records go out as they lie in memory.
static_assert(std::endian::native == std::endian::little);
static_assert(sizeof(Extent) == 24 && sizeof(Answer) == 1 && sizeof(Outcome) == 1);

inline std::span<const std::byte> bytes_of(const pybind11::bytes& packed) {
  const std::string_view view(packed);
  return std::as_bytes(std::span(view.data(), view.size()));
}

template <typename Record>
pybind11::bytes packed(const std::vector<Record>& records) {
  return {reinterpret_cast<const char*>(records.data()), records.size() * sizeof(Record)};
}

inline KeyBatch keys_of(const pybind11::bytes& keys) {
  return KeyBatch(bytes_of(keys));
}

inline Key key_of(const pybind11::bytes& key) {
  const KeyBatch keys = keys_of(key);
  if (keys.size() != 1) throw BadKeys("a key has 32 bytes; give one");
  return keys[0];
}

inline Id id_of(const pybind11::bytes& id) {
  const auto bytes = bytes_of(id);
  Id made{};
  if (bytes.size() != sizeof(made)) {
    throw BadArgument("an id of " + std::to_string(bytes.size()) + " bytes; draw 16 random ones");
  }
  std::memcpy(&made, bytes.data(), sizeof(made));
  return made;
}

inline pybind11::bytes id_bytes(const Id& id) {
  return {reinterpret_cast<const char*>(&id), sizeof(id)};
}

template <typename Word>
std::vector<Word> words_of(const pybind11::bytes& packed, const char* what) {
  const auto bytes = bytes_of(packed);
  if (bytes.size() % sizeof(Word) != 0) {
    throw BadArgument(std::string(what) + " of " + std::to_string(bytes.size()) +
                      " bytes; give packed words of " + std::to_string(sizeof(Word)));
  }
  std::vector<Word> words(bytes.size() / sizeof(Word));
  if (!words.empty()) std::memcpy(words.data(), bytes.data(), bytes.size());
  return words;
}

}  // namespace penstock::bind
