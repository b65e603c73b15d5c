/* Ternary weights in whichever layout the program has them; see weights.h. */
#include "ops/weights.h"

edge_status edge_take_layout(edge_call *call, const edge_tensor *packed, bool ternary, int *layout) {
  *layout = EDGE_LAYOUT_ROWS;
  if (packed->rank == 2) return EDGE_OK;
  bool known = ternary && packed->rank > 2 && packed->rank < 2 + EDGE_LAYOUT_COUNT;
  for (uint32_t d = 2; known && d < packed->rank; ++d) known = packed->sizes[d] == 1;
  if (known) {
    *layout = edge_layout_of(packed);
    return EDGE_OK;
  }
  edge_shape_text given;
  return edge_fail(call, EDGE_BAD_ARGUMENT, "packed has shape %s, expected 2 dimensions%s",
                   edge_shape_string(&given, packed->sizes, packed->rank), ternary ? ", or a layout's" : "");
}

edge_status edge_reserve_weights(edge_call *call, const edge_tensor *packed, size_t n, size_t k, int wanted,
                                 size_t repacked) {
  const int layout = edge_layout_of(packed);
  if (layout == EDGE_LAYOUT_ROWS && (EDGE_SCALAR_WHERE_UNREAD || wanted == EDGE_LAYOUT_ROWS)) {
    return packed->constant ? edge_reserve_packed(call, repacked) : EDGE_OK;
  }
  if (layout == wanted) return EDGE_OK;
#if defined(EDGE_BARE_METAL)
  (void)n, (void)k;
  /* A sentence even from firmware, because a machine without it may not refuse. */
  return (edge_fail)(call, EDGE_UNSUPPORTED, "weights are not in this firmware's layout: export with its --target");
#else
  if (!packed->constant) {
    return edge_fail(call, EDGE_UNSUPPORTED, "weights in layout %s are no constant", edge_layout_name(layout));
  }
  return edge_reserve_packed(call, edge_whole_lines(repacked) +
                                       (uint64_t)n * edge_layout_row_bytes(EDGE_LAYOUT_ROWS, k));
#endif
}

const void *edge_weight_rows(edge_call *call, const edge_tensor *packed, size_t n, size_t k, size_t repacked) {
  const int layout = edge_layout_of(packed);
  if (layout == EDGE_LAYOUT_ROWS) return packed->data;
#if defined(EDGE_BARE_METAL)
  (void)n, (void)k, (void)repacked;
  return NULL;
#else
  uint8_t *rows = (uint8_t *)call->packed + edge_whole_lines(repacked);
  edge_layout_to_rows(layout, n, k, packed->data, rows);
  return rows;
#endif
}

bool edge_kernel_reads(const edge_call *call, const edge_tensor *packed, int wanted, bool packs, size_t repacked) {
  return call->packed != NULL ? repacked > 0 : !packs && edge_layout_of(packed) == wanted;
}
