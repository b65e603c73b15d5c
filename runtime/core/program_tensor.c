/* Tensors of a program file: shape, dtype, and where the data lies or will lie. */
#include "program_tensor.h"

#include <string.h>

/* Field numbers, in the schema's order. */
enum { BUFFER_STORAGE = 0 };
enum { SEGMENT_OFFSET = 0, SEGMENT_SIZE = 1 };
enum {
  TENSOR_DTYPE = 0,
  TENSOR_STORAGE_OFFSET = 1,
  TENSOR_SIZES = 2,
  TENSOR_DIM_ORDER = 3,
  TENSOR_BUFFER = 5,
  TENSOR_ALLOCATION = 6,
  TENSOR_DYNAMISM = 8,
  TENSOR_EXTRA = 9
};
enum { ALLOCATION_MEMORY = 0, ALLOCATION_LOW = 1, ALLOCATION_HIGH = 2 };
enum { EXTRA_MUTABLE_SEGMENT = 0, EXTRA_NAME = 1, EXTRA_LOCATION = 2, EXTRA_DEVICE = 3 };
enum { DYNAMIC_UNBOUND = 2, EXTERNAL = 1, CPU = 0 };

/* A tensor without elements can still make a kernel loop over its other dimensions: this bounds them. */
#define EMPTY_TENSOR_LIMIT 65536

static edge_status open_segment(const edge_program *program, uint32_t index, edge_segment *segment) {
  const fb_reader *reader = &program->reader;
  if (index >= program->segment_table.count) {
    return edge_set_error(reader->error, EDGE_BAD_FILE, "segment %lu of %lu is asked for; the file is damaged",
                          (unsigned long)index, (unsigned long)program->segment_table.count);
  }
  fb_table table;
  uint64_t offset = 0, size = 0;
  if (!fb_list_table(reader, &program->segment_table, index, "segment", &table) ||
      !fb_u64(reader, &table, SEGMENT_OFFSET, "segment offset", &offset) ||
      !fb_u64(reader, &table, SEGMENT_SIZE, "segment size", &size)) {
    return edge_fault(program);
  }
  if (offset > program->segments.size || size > program->segments.size - offset) {
    return edge_set_error(reader->error, EDGE_BAD_FILE, "segment %lu reaches past the end of the file; fetch it again",
                          (unsigned long)index);
  }
  segment->bytes = program->segments.bytes + offset;
  segment->size = size;
  return EDGE_OK;
}

/* The bytes from `offset` on in a segment. */
static edge_status open_subsegment(const edge_program *program, uint32_t segment_index, uint64_t offset,
                                   edge_segment *data) {
  edge_status status = open_segment(program, segment_index, data);
  if (status != EDGE_OK) return status;
  if (offset > data->size) {
    return edge_set_error(program->reader.error, EDGE_BAD_FILE,
                          "data at byte %llu of segment %lu, which has %llu; the file is damaged",
                          (unsigned long long)offset, (unsigned long)segment_index, (unsigned long long)data->size);
  }
  data->bytes += offset;
  data->size -= offset;
  return EDGE_OK;
}

static edge_status find_constant(const edge_program *program, uint32_t buffer, edge_segment *data) {
  const fb_reader *reader = &program->reader;
  uint32_t count = program->constants_in_segment ? program->constant_offsets.count : program->constant_buffers.count;
  if (buffer >= count) {
    return edge_set_error(reader->error, EDGE_BAD_FILE, "constant %lu of %lu is asked for; the file is damaged",
                          (unsigned long)buffer, (unsigned long)count);
  }
  if (program->constants_in_segment) {
    return open_subsegment(program, program->constant_segment, fb_list_u64(reader, &program->constant_offsets, buffer),
                           data);
  }
  fb_table table;
  fb_vector storage;
  if (!fb_list_table(reader, &program->constant_buffers, buffer, "constant", &table) ||
      !fb_list(reader, &table, BUFFER_STORAGE, 1, "constant", &storage)) {
    return edge_fault(program);
  }
  data->bytes = reader->bytes + storage.at;
  data->size = storage.count;
  return EDGE_OK;
}

static edge_status find_initial(const edge_program *program, uint64_t mutable_segment, uint32_t buffer,
                                edge_segment *data) {
  const fb_reader *reader = &program->reader;
  if (mutable_segment >= program->mutable_segments.count) {
    return edge_set_error(reader->error, EDGE_BAD_FILE, "mutable segment %llu of %lu is asked for; the file is damaged",
                          (unsigned long long)mutable_segment, (unsigned long)program->mutable_segments.count);
  }
  fb_table table;
  fb_vector offsets;
  uint32_t segment = 0;
  if (!fb_list_table(reader, &program->mutable_segments, (uint32_t)mutable_segment, "mutable segment", &table) ||
      !fb_u32(reader, &table, SUBSEGMENT_SEGMENT, "mutable segment", &segment) ||
      !fb_list(reader, &table, SUBSEGMENT_OFFSETS, 8, "mutable segment", &offsets)) {
    return edge_fault(program);
  }
  if (buffer >= offsets.count) {
    return edge_set_error(reader->error, EDGE_BAD_FILE, "initial value %lu of %lu is asked for; the file is damaged",
                          (unsigned long)buffer, (unsigned long)offsets.count);
  }
  return open_subsegment(program, segment, fb_list_u64(reader, &offsets, buffer), data);
}

/* Sizes and the number of bytes. Dimensions of size 1 may stand anywhere in the dim order: they move nothing. */
static edge_status read_shape(const edge_program *program, uint32_t index, const fb_table *table, edge_tensor *tensor) {
  const fb_reader *reader = &program->reader;
  fb_vector sizes, order;
  if (!fb_list(reader, table, TENSOR_SIZES, 4, "tensor sizes", &sizes) ||
      !fb_list(reader, table, TENSOR_DIM_ORDER, 1, "tensor dim order", &order)) {
    return edge_fault(program);
  }
  if (sizes.count > EDGE_MAX_RANK) {
    return edge_refuse_value(program, EDGE_UNSUPPORTED, index, "a tensor of more than 8 dimensions");
  }
  if (order.count != sizes.count) {
    return edge_refuse_value(program, EDGE_BAD_FILE, index,
                             "dim order and sizes differ in length; the file is damaged");
  }
  uint64_t elements = 1, extent = 1;
  for (uint32_t i = 0; i < sizes.count; ++i) {
    uint32_t size = fb_list_u32(reader, &sizes, i);
    if (size > INT32_MAX) {
      return edge_refuse_value(program, EDGE_BAD_FILE, index, "a negative dimension; the file is damaged");
    }
    /* Both factors are below 2^31, so the product does not overflow. */
    elements *= size;
    extent *= size == 0 ? 1 : size;
    if (extent > INT32_MAX)
      return edge_refuse_value(program, EDGE_UNSUPPORTED, index, "a tensor of 2^31 elements or more");
    tensor->sizes[i] = (int32_t)size;
  }
  if (elements == 0 && extent > EMPTY_TENSOR_LIMIT) {
    return edge_refuse_value(program, EDGE_UNSUPPORTED, index, "an empty tensor with a dimension above 65536");
  }
  uint32_t seen = 0;
  int32_t previous = -1;
  for (uint32_t i = 0; i < order.count; ++i) {
    uint32_t dim = reader->bytes[order.at + i];
    if (dim >= sizes.count || (seen >> dim & 1) != 0) {
      return edge_refuse_value(program, EDGE_BAD_FILE, index, "dim order is no permutation; the file is damaged");
    }
    seen |= 1u << dim;
    if (tensor->sizes[dim] == 1) continue;
    if ((int32_t)dim < previous) {
      return edge_refuse_value(program, EDGE_UNSUPPORTED, index,
                               "a tensor in channels-last or another permuted memory format; export the model and its "
                               "inputs contiguous (torch.contiguous_format)");
    }
    previous = (int32_t)dim;
  }
  tensor->rank = (uint8_t)sizes.count;
  tensor->bytes = (size_t)elements * edge_dtype_bytes(tensor->dtype);
  if (tensor->bytes / edge_dtype_bytes(tensor->dtype) != elements) {
    return edge_refuse_value(program, EDGE_UNSUPPORTED, index, "a tensor larger than this machine's address space");
  }
  return EDGE_OK;
}

static const char *foreign_dtype(uint8_t dtype) {
  switch (dtype) {
    case 5: return "float16";
    case 15: return "bfloat16";
    case 12:
    case 13:
    case 14: return "a torch quantized type";
    case 27: return "uint16";
    case 28: return "uint32";
    case 29: return "uint64";
    default: return "an unknown type";
  }
}

static edge_status read_extra(const edge_program *program, uint32_t index, const fb_table *extra,
                              uint64_t *mutable_segment) {
  const fb_reader *reader = &program->reader;
  uint8_t location = 0, device = CPU;
  fb_vector name;
  if (!fb_u64(reader, extra, EXTRA_MUTABLE_SEGMENT, "mutable segment", mutable_segment) ||
      !fb_u8(reader, extra, EXTRA_LOCATION, "tensor location", &location) ||
      !fb_u8(reader, extra, EXTRA_DEVICE, "tensor device", &device) ||
      !fb_string(reader, extra, EXTRA_NAME, "tensor name", &name)) {
    return edge_fault(program);
  }
  if (location == EXTERNAL) {
    edge_label label = edge_string_label(program, &name);
    return edge_set_error(reader->error, EDGE_UNSUPPORTED,
                          "value %lu: '%s' lies in an external .ptd file; export with the weights inside the program",
                          (unsigned long)index, label.text);
  }
  if (device != CPU)
    return edge_refuse_value(program, EDGE_UNSUPPORTED, index, "a tensor on another device than the CPU");
  return EDGE_OK;
}

/* Where the tensor's memory is: in the file, in a planned buffer, or nowhere yet. */
static edge_status read_placement(const edge_program *program, uint32_t index, const fb_table *table,
                                  uint64_t mutable_segment, edge_stored_value *stored) {
  const fb_reader *reader = &program->reader;
  edge_tensor *tensor = &stored->value.as.tensor;
  size_t width = edge_dtype_bytes(tensor->dtype);
  uint32_t buffer = 0, low = 0, high = 0;
  fb_table allocation;
  bool planned;
  if (!fb_u32(reader, table, TENSOR_BUFFER, "tensor buffer", &buffer) ||
      !fb_child(reader, table, TENSOR_ALLOCATION, "tensor allocation", &allocation, &planned)) {
    return edge_fault(program);
  }
  if (planned) {
    if (!fb_u32(reader, &allocation, ALLOCATION_MEMORY, "memory id", &stored->memory) ||
        !fb_u32(reader, &allocation, ALLOCATION_LOW, "memory offset", &low) ||
        !fb_u32(reader, &allocation, ALLOCATION_HIGH, "memory offset", &high)) {
      return edge_fault(program);
    }
    stored->offset = (uint64_t)high << 32 | low;
    uint64_t room = 0;
    if (stored->memory > 0 && stored->memory < program->memories.count) {
      room = fb_list_u64(reader, &program->memories, stored->memory);
    }
    if (stored->memory == 0 || stored->memory >= program->memories.count || stored->offset > room ||
        tensor->bytes > room - stored->offset) {
      return edge_refuse_value(program, EDGE_BAD_FILE, index, "planned outside its memory; the file is damaged");
    }
    if (stored->offset % width != 0) {
      return edge_refuse_value(program, EDGE_BAD_FILE, index, "planned at an offset unaligned to its dtype");
    }
  }
  if (buffer == 0) return EDGE_OK;

  edge_segment data;
  edge_status status =
      planned ? find_initial(program, mutable_segment, buffer, &data) : find_constant(program, buffer, &data);
  if (status != EDGE_OK) return status;
  if (data.size < tensor->bytes) {
    return edge_refuse_value(program, EDGE_BAD_FILE, index, "its data is shorter than its shape; the file is damaged");
  }
  if (planned) {
    stored->initial = data.bytes;
    return EDGE_OK;
  }
  if ((uintptr_t)data.bytes % width != 0) {
    return edge_refuse_value(program, EDGE_BAD_FILE, index, "constant data unaligned to its dtype");
  }
  /* `constant` is what keeps every writer away from these bytes. */
  tensor->data = (void *)(uintptr_t)data.bytes;
  tensor->constant = true;
  return EDGE_OK;
}

edge_status edge_read_tensor(const edge_program *program, uint32_t index, const fb_table *table,
                             edge_stored_value *stored) {
  const fb_reader *reader = &program->reader;
  uint8_t dtype = 0, dynamism = 0;
  uint32_t storage_offset = 0;
  uint64_t mutable_segment = 0;
  fb_table extra;
  bool present;
  if (!fb_u8(reader, table, TENSOR_DTYPE, "tensor dtype", &dtype) ||
      !fb_u8(reader, table, TENSOR_DYNAMISM, "tensor dynamism", &dynamism) ||
      !fb_u32(reader, table, TENSOR_STORAGE_OFFSET, "tensor storage offset", &storage_offset) ||
      !fb_child(reader, table, TENSOR_EXTRA, "tensor extras", &extra, &present)) {
    return edge_fault(program);
  }
  if (edge_dtype_bytes(dtype) == 0) {
    return edge_set_error(reader->error, EDGE_UNSUPPORTED,
                          "value %lu: a tensor of %s (dtype %u); the core computes in float32: export model.float()",
                          (unsigned long)index, foreign_dtype(dtype), dtype);
  }
  if (storage_offset != 0) return edge_refuse_value(program, EDGE_UNSUPPORTED, index, "a tensor with a storage offset");
  if (dynamism >= DYNAMIC_UNBOUND) {
    return edge_refuse_value(program, EDGE_UNSUPPORTED, index,
                             "a tensor of unbounded dynamic shape; export with static shapes");
  }
  stored->value.kind = EDGE_TENSOR;
  stored->value.as.tensor.dtype = dtype;
  edge_status status = read_shape(program, index, table, &stored->value.as.tensor);
  if (status == EDGE_OK && present) status = read_extra(program, index, &extra, &mutable_segment);
  if (status == EDGE_OK) status = read_placement(program, index, table, mutable_segment, stored);
  return status;
}
