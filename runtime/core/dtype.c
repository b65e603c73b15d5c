/* Names and sizes of the element types that the core computes with. */
#include "edge_core.h"

const char *edge_dtype_name(int dtype) {
  switch (dtype) {
    case EDGE_UINT8: return "uint8";
    case EDGE_INT8: return "int8";
    case EDGE_INT16: return "int16";
    case EDGE_INT32: return "int32";
    case EDGE_INT64: return "int64";
    case EDGE_FLOAT32: return "float32";
    case EDGE_FLOAT64: return "float64";
    case EDGE_BOOL: return "bool";
    default: return NULL;
  }
}

size_t edge_dtype_bytes(int dtype) {
  switch (dtype) {
    case EDGE_UINT8:
    case EDGE_INT8:
    case EDGE_BOOL: return 1;
    case EDGE_INT16: return 2;
    case EDGE_INT32:
    case EDGE_FLOAT32: return 4;
    case EDGE_INT64:
    case EDGE_FLOAT64: return 8;
    default: return 0;
  }
}
