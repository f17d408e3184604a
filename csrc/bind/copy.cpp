// The block copy as Python sees it.
#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "bind/buffers.hpp"
#include "copy/copier.hpp"
#include "core/arena.hpp"

namespace py = pybind11;
using namespace pybind11::literals;
using penstock::ArenaMapping;
using penstock::Copier;
using penstock::CopierOptions;
using penstock::Direction;
using penstock::Instructions;
using penstock::LayoutRecord;
using penstock::ObjectAddress;
using penstock::ObjectExtent;
using penstock::PagedLayout;
using penstock::bind::HeldBuffer;

namespace {

using Layers = std::optional<std::pair<std::uint64_t, std::uint64_t>>;

PagedLayout make_layout(std::vector<std::uint64_t> bases, std::vector<std::uint64_t> span_bytes,
                        std::uint64_t layers, std::uint64_t components, std::uint64_t blocks,
                        std::uint64_t block_slots, std::uint64_t heads, std::uint64_t head_bytes,
                        std::uint64_t s_block, std::uint64_t s_slot, std::uint64_t s_head,
                        const py::object& /*owner: kept alive*/) {
  return PagedLayout({.bases = std::move(bases),
                      .span_bytes = std::move(span_bytes),
                      .layers = layers,
                      .components = components,
                      .blocks = blocks,
                      .block_slots = block_slots,
                      .heads = heads,
                      .head_bytes = head_bytes,
                      .s_block = s_block,
                      .s_slot = s_slot,
                      .s_head = s_head});
}

py::bytes run(Copier& copier, Direction direction, const PagedLayout& layout,
              std::vector<ObjectAddress> objects, const py::buffer& block_ids,
              std::uint64_t skip_blocks, const Layers& layers) {
  const auto ids = HeldBuffer::reading(block_ids, "block_ids").records<std::int64_t>();
  const auto [first, last] = layers.value_or(std::pair{std::uint64_t{0}, layout.record().layers});
  const penstock::CopyRequest request{.direction = direction,
                                      .layout = &layout,
                                      .objects = std::move(objects),
                                      .block_ids = ids,
                                      .skip_blocks = skip_blocks,
                                      .layers = {.first = first, .last = last}};
  std::vector<std::uint64_t> digests;
  {
    const py::gil_scoped_release release_gil;
    digests = copier.copy(request);
  }
  return {reinterpret_cast<const char*>(digests.data()), digests.size() * sizeof(std::uint64_t)};
}

py::bytes copy_mapping(Copier& copier, Direction direction, const PagedLayout& layout,
                       const ArenaMapping& arena, const py::buffer& extents,
                       const py::buffer& block_ids, std::uint64_t skip_blocks,
                       const Layers& layers) {
  const auto mapping = arena.mapping();  // a share: close() unmaps after the copy
  const HeldBuffer held = HeldBuffer::reading(extents, "extents");
  const auto objects =
      penstock::addresses_in(mapping->range(0, arena.bytes()), held.records<ObjectExtent>());
  return run(copier, direction, layout, objects, block_ids, skip_blocks, layers);
}

py::bytes copy_buffer(Copier& copier, Direction direction, const PagedLayout& layout,
                      const py::buffer& arena, const py::buffer& extents,
                      const py::buffer& block_ids, std::uint64_t skip_blocks,
                      const Layers& layers) {
  const HeldBuffer memory = direction == Direction::to_objects
                                ? HeldBuffer::writing(arena, "arena")
                                : HeldBuffer::reading(arena, "arena");
  const HeldBuffer held = HeldBuffer::reading(extents, "extents");
  const auto objects = penstock::addresses_in(memory.bytes(), held.records<ObjectExtent>());
  return run(copier, direction, layout, objects, block_ids, skip_blocks, layers);
}

py::bytes copy_at(Copier& copier, Direction direction, const PagedLayout& layout,
                  const py::buffer& addresses, const py::buffer& block_ids,
                  std::uint64_t skip_blocks, const Layers& layers) {
  auto objects = HeldBuffer::reading(addresses, "addresses").records<ObjectAddress>();
  return run(copier, direction, layout, std::move(objects), block_ids, skip_blocks, layers);
}

template <auto kBaseline>
void baseline(Copier& copier, const py::buffer& destination, const py::buffer& source) {
  const HeldBuffer to = HeldBuffer::writing(destination, "destination");
  const HeldBuffer from = HeldBuffer::reading(source, "source");
  const py::gil_scoped_release release_gil;
  (copier.*kBaseline)(to.bytes(), from.bytes());
}

std::vector<std::uint64_t> bases_of(const PagedLayout& layout) {
  return layout.record().bases;
}

template <auto kField>
std::uint64_t field(const PagedLayout& layout) {
  return layout.record().*kField;
}

}  // namespace

void bind_copy(py::module_& m) {
  py::register_exception<penstock::LayoutRefused>(m, "LayoutRefused", PyExc_ValueError);
  py::register_exception<penstock::CopyRefused>(m, "CopyRefused", PyExc_ValueError);

  py::native_enum<Direction>(m, "Direction", "enum.Enum", "Which way a copy goes.")
      .value("TO_OBJECTS", Direction::to_objects)
      .value("TO_PAGED", Direction::to_paged)
      .finalize();

  py::native_enum<Instructions>(m, "Instructions", "enum.Enum", "Which instructions may be used.")
      .value("PORTABLE", Instructions::portable)
      .value("PCLMUL", Instructions::pclmul)
      .value("VPCLMUL512", Instructions::vpclmul512)
      .finalize();

  m.def("widest_instructions", &penstock::widest_instructions, "The widest that this CPU has.");

  py::class_<PagedLayout>(m, "PagedLayout", "Where an engine keeps the KV of one layer group.")
      .def(py::init(&make_layout), py::kw_only(), "bases"_a, "span_bytes"_a, "layers"_a,
           "components"_a, "blocks"_a, "block_slots"_a, "heads"_a, "head_bytes"_a, "s_block"_a,
           "s_slot"_a, "s_head"_a, "owner"_a = py::none(), py::keep_alive<1, 13>())
      .def("run_bytes", &PagedLayout::run_bytes, "object_blocks"_a)
      .def("object_bytes", &PagedLayout::object_bytes, "object_blocks"_a)
      .def_property_readonly("bases", &bases_of)
      .def_property_readonly("layers", &field<&LayoutRecord::layers>)
      .def_property_readonly("components", &field<&LayoutRecord::components>)
      .def_property_readonly("blocks", &field<&LayoutRecord::blocks>)
      .def_property_readonly("block_slots", &field<&LayoutRecord::block_slots>)
      .def_property_readonly("heads", &field<&LayoutRecord::heads>)
      .def_property_readonly("head_bytes", &field<&LayoutRecord::head_bytes>)
      .def_property_readonly("s_block", &field<&LayoutRecord::s_block>)
      .def_property_readonly("s_slot", &field<&LayoutRecord::s_slot>)
      .def_property_readonly("s_head", &field<&LayoutRecord::s_head>);

  py::class_<Copier>(m, "Copier", "Paged blocks <-> objects, with threads of its own.")
      .def(py::init([](std::size_t threads, std::uint64_t streaming_bytes_min,
                       Instructions instructions) {
             return std::make_unique<Copier>(
                 CopierOptions{.threads = threads,
                               .streaming_bytes_min = streaming_bytes_min,
                               .instructions = instructions});
           }),
           py::kw_only(), "threads"_a, "streaming_bytes_min"_a = 0,
           "instructions"_a = penstock::widest_instructions())
      // Each of these releases the GIL while bytes move, and only then.
      .def("copy", &copy_mapping, py::kw_only(), "direction"_a, "layout"_a, "arena"_a, "extents"_a,
           "block_ids"_a, "skip_blocks"_a = 0, "layers"_a = py::none())
      .def("copy", &copy_buffer, py::kw_only(), "direction"_a, "layout"_a, "arena"_a, "extents"_a,
           "block_ids"_a, "skip_blocks"_a = 0, "layers"_a = py::none())
      .def("copy_at", &copy_at, py::kw_only(), "direction"_a, "layout"_a, "addresses"_a,
           "block_ids"_a, "skip_blocks"_a = 0, "layers"_a = py::none())
      .def("baseline_memcpy", &baseline<&Copier::baseline_memcpy>, py::kw_only(), "destination"_a,
           "source"_a)
      .def("baseline_streaming", &baseline<&Copier::baseline_streaming>, py::kw_only(),
           "destination"_a, "source"_a)
      .def_property_readonly("threads", &Copier::threads)
      .def_property_readonly("streaming_bytes_min", &Copier::streaming_bytes_min)
      .def_property_readonly("instructions", &Copier::instructions);
}
