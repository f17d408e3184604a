// The catalog and the offline replay as Python sees them. Calls keep the GIL but for the long ones.
#include "core/catalog.hpp"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/optimum.hpp"

namespace py = pybind11;
using namespace pybind11::literals;

namespace {

using penstock::Catalog;
using penstock::KeyBatch;
using penstock::PolicyKind;
using penstock::Replayed;
using penstock::Victims;

KeyBatch keys_of(const py::bytes& keys) {
  const std::string_view view(keys);
  return KeyBatch(std::as_bytes(std::span(view.data(), view.size())));
}

template <typename Word>
std::vector<Word> words_of(const py::bytes& packed, const char* what) {
  const std::string_view view(packed);
  if (view.size() % sizeof(Word) != 0) {
    throw penstock::BadArgument(std::string(what) + " of " + std::to_string(view.size()) +
                                " bytes; give packed words of " + std::to_string(sizeof(Word)));
  }
  std::vector<Word> words(view.size() / sizeof(Word));
  if (!words.empty()) std::memcpy(words.data(), view.data(), view.size());
  return words;
}

template <typename Word>
py::bytes packed(const std::vector<Word>& words) {
  return {reinterpret_cast<const char*>(words.data()), words.size() * sizeof(Word)};
}

std::unique_ptr<Catalog> make(std::uint32_t objects_max, std::uint64_t capacity_bytes,
                              PolicyKind policy, std::uint64_t hash_seed) {
  return std::make_unique<Catalog>(Catalog::Limits{.objects_max = objects_max,
                                                   .capacity_bytes = capacity_bytes,
                                                   .policy = policy,
                                                   .hash_seed = hash_seed});
}

void put(Catalog& self, const py::bytes& keys, const py::bytes& sizes, const py::bytes& places,
         const py::bytes& tenants) {
  self.put(keys_of(keys), words_of<std::uint64_t>(sizes, "sizes"),
           words_of<std::uint64_t>(places, "places"), words_of<std::uint32_t>(tenants, "tenants"));
}

py::bytes has(const Catalog& self, const py::bytes& keys) {
  const KeyBatch batch = keys_of(keys);
  std::string present(batch.size(), '\0');
  for (std::size_t i = 0; i < batch.size(); ++i) {
    present[i] = self.find(batch[i]) == nullptr ? '\0' : '\1';
  }
  return {present.data(), present.size()};
}

template <typename Field>
py::bytes fields(const Catalog& self, const py::bytes& keys, Field field) {
  const KeyBatch batch = keys_of(keys);
  std::vector<std::uint64_t> words(batch.size(), Catalog::kNowhere);
  for (std::size_t i = 0; i < batch.size(); ++i) {
    const penstock::Item* item = self.find(batch[i]);
    if (item != nullptr) words[i] = item->*field;
  }
  return packed(words);
}

Replayed replay(Catalog& self, const py::bytes& prompts, const py::bytes& lengths,
                std::uint64_t object_bytes, std::uint32_t tenant) {
  const KeyBatch keys = keys_of(prompts);
  const std::vector<std::uint32_t> counts = words_of<std::uint32_t>(lengths, "lengths");
  const py::gil_scoped_release release;
  return self.replay(keys, counts, object_bytes, tenant);
}

std::uint64_t optimum(const py::bytes& references, std::uint32_t capacity) {
  const std::vector<std::uint32_t> numbers = words_of<std::uint32_t>(references, "references");
  const py::gil_scoped_release release;
  return penstock::optimum_hits(numbers, capacity);
}

void validate(const Catalog& self) {
  try {
    self.validate();
  } catch (const std::logic_error& broken) {
    py::set_error(PyExc_AssertionError, broken.what());
    throw py::error_already_set();
  }
}

void bind_results(py::module_& m) {
  py::class_<Victims>(m, "CatalogVictims", "Objects that were chosen to go.")
      .def_property_readonly("keys", [](const Victims& self) { return packed(self.keys); })
      .def_property_readonly("sizes", [](const Victims& self) { return packed(self.sizes); })
      .def_property_readonly("places", [](const Victims& self) { return packed(self.places); })
      .def_readonly("bytes", &Victims::bytes);
  py::class_<Replayed>(m, "Replayed", "What a replay has counted.")
      .def_readonly("references", &Replayed::references)
      .def_readonly("hits", &Replayed::hits)
      .def_readonly("refused", &Replayed::refused)
      .def_readonly("evictions", &Replayed::evictions);
  m.def("optimum_hits", &optimum, "references"_a, py::kw_only(), "capacity"_a,
        "What an all-knowing cache would hit. Releases the GIL.");
}

}  // namespace

void bind_catalog(py::module_& m) {
  bind_results(m);
  py::class_<Catalog>(m, "Catalog", "A ledger of named objects under an eviction policy.")
      .def(py::init(&make), py::kw_only(), "objects_max"_a, "capacity_bytes"_a, "policy"_a,
           "hash_seed"_a = 0)
      .def("put", &put, "keys"_a, py::kw_only(), "sizes"_a, "places"_a, "tenants"_a)
      .def("has", &has, "keys"_a)
      .def(
          "places",
          [](const Catalog& self, const py::bytes& keys) {
            return fields(self, keys, &penstock::Item::place);
          },
          "keys"_a)
      .def(
          "sizes",
          [](const Catalog& self, const py::bytes& keys) {
            return fields(self, keys, &penstock::Item::bytes);
          },
          "keys"_a)
      .def(
          "touch", [](Catalog& self, const py::bytes& keys) { return self.touch(keys_of(keys)); },
          "keys"_a)
      .def(
          "remove", [](Catalog& self, const py::bytes& keys) { return self.remove(keys_of(keys)); },
          "keys"_a)
      .def("victims", &Catalog::victims, py::kw_only(), "bytes_wanted"_a, "count_max"_a)
      .def(
          "spare", [](Catalog& self, const py::bytes& keys) { return self.spare(keys_of(keys)); },
          "keys"_a)
      .def("replay", &replay, "prompts"_a, "lengths"_a, py::kw_only(), "object_bytes"_a,
           "tenant"_a = 0, "Releases the GIL.")
      .def("bytes_of", &Catalog::bytes_of, "tenant"_a)
      .def_property_readonly("used_bytes", &Catalog::used_bytes)
      .def_property_readonly("capacity_bytes", &Catalog::capacity_bytes)
      .def_property_readonly("objects", &Catalog::objects)
      .def_property_readonly("metadata_bytes", &Catalog::metadata_bytes)
      .def("validate", &validate, "Raise AssertionError naming the first broken invariant.");
}
