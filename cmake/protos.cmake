# Python stubs of the contracts in protos/, with type stubs beside them. Built, never committed.
file(GLOB protos CONFIGURE_DEPENDS protos/*.proto)
set(proto_out ${CMAKE_CURRENT_BINARY_DIR}/protos)
set(stubs "")
foreach(proto ${protos})
  get_filename_component(name ${proto} NAME_WE)
  foreach(suffix _pb2.py _pb2.pyi _pb2_grpc.py _pb2_grpc.pyi)
    list(APPEND stubs ${proto_out}/penstock/protos/${name}${suffix})
  endforeach()
endforeach()
get_filename_component(python_bin ${Python_EXECUTABLE} DIRECTORY)
find_program(protoc_gen_mypy protoc-gen-mypy HINTS ${python_bin} REQUIRED)
find_program(protoc_gen_mypy_grpc protoc-gen-mypy_grpc HINTS ${python_bin} REQUIRED)
add_custom_command(
  OUTPUT ${stubs}
  COMMAND ${CMAKE_COMMAND} -E make_directory ${proto_out}
  COMMAND ${Python_EXECUTABLE} -m grpc_tools.protoc -Ipenstock/protos=${CMAKE_CURRENT_SOURCE_DIR}/protos
          --plugin=protoc-gen-mypy=${protoc_gen_mypy}
          --plugin=protoc-gen-mypy_grpc=${protoc_gen_mypy_grpc}
          --python_out=${proto_out} --grpc_python_out=${proto_out}
          --mypy_out=quiet:${proto_out} --mypy_grpc_out=quiet:${proto_out} ${protos}
  DEPENDS ${protos}
  COMMENT "Building protocol stubs"
  VERBATIM)
add_custom_target(protocol_stubs ALL DEPENDS ${stubs})
file(WRITE ${proto_out}/penstock/protos/__init__.py
  "\"\"\"Protocol stubs, built from the contracts in protos/.\"\"\"\n")
install(DIRECTORY ${proto_out}/penstock/protos/ DESTINATION penstock/protos)
