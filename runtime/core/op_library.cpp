// The edge:: operators as ExecuTorch kernels: a C++20 shim over the core's operator table.
//
// Compiled on the user's machine against the executorch wheel (edge.runtime.backends.op_library) and loaded after
// executorch.runtime; loading registers the kernels. They use ExecuTorch's boxed interface: an operator gets all its
// arguments as EValues, which are translated one by one, so no operator needs code of its own here.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include <executorch/runtime/core/evalue.h>
#include <executorch/runtime/kernel/kernel_runtime_context.h>
#include <executorch/runtime/kernel/operator_registry.h>

#include "kernels/kernels.h"
#include "ops/ops.h"

namespace {

using executorch::aten::Tensor;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::Kernel;
using executorch::runtime::KernelRuntimeContext;
using executorch::runtime::Span;

// More than any operator has.
constexpr size_t kMaxArguments = 16;

// One call's arguments: values, and the memory of integer lists.
struct Arguments {
  edge_value values[kMaxArguments] = {};
  edge_value *pointers[kMaxArguments] = {};
  std::vector<int64_t> integers[kMaxArguments];

  // NULL, or why the argument cannot be translated.
  const char *add(size_t index, const EValue &source);
};

const char *translate(const Tensor &source, edge_value *value) {
  edge_tensor &tensor = value->as.tensor;
  if (source.dim() > EDGE_MAX_RANK) return "a tensor has more than 8 dimensions";
  for (ssize_t d = 0; d < source.dim(); ++d) {
    // The core knows row-major tensors only.
    if (source.dim_order()[d] != d) return "a tensor is not contiguous (channels last)";
    tensor.sizes[d] = static_cast<int32_t>(source.size(d));
  }
  value->kind = EDGE_TENSOR;
  tensor.rank = static_cast<uint8_t>(source.dim());
  tensor.dtype = static_cast<uint8_t>(source.scalar_type());  // numbered alike
  tensor.bytes = source.nbytes();
  tensor.data = const_cast<void *>(source.const_data_ptr());
  if (tensor.data == nullptr && tensor.bytes > 0) return "a tensor has no memory";
  return nullptr;
}

const char *Arguments::add(size_t index, const EValue &source) {
  edge_value &value = values[index];
  pointers[index] = &value;
  if (source.isNone()) {
    value.kind = EDGE_NONE;
  } else if (source.isTensor()) {
    return translate(source.toTensor(), &value);
  } else if (source.isInt()) {
    value.kind = EDGE_INT;
    value.as.integer = source.toInt();
  } else if (source.isBool()) {
    value.kind = EDGE_BOOLEAN;
    value.as.boolean = source.toBool();
  } else if (source.isDouble()) {
    value.kind = EDGE_DOUBLE;
    value.as.real = source.toDouble();
  } else if (source.isIntList()) {
    const auto list = source.toIntList();
    integers[index].assign(list.begin(), list.end());
    value.kind = EDGE_INT_LIST;
    value.count = static_cast<uint32_t>(list.size());
    value.as.integers = integers[index].data();
  } else {
    return "an argument is of a kind that no edge operator takes";
  }
  return nullptr;
}

// A kernel has no state between calls, so repacked weights are kept here, by where the weights are. The address may come
// to hold another program's weights: each use compares a copy.
struct Packed {
  std::vector<unsigned char> source;
  std::vector<unsigned char> storage;

  void *data() {
    const auto address = reinterpret_cast<std::uintptr_t>(storage.data());
    return storage.data() + (EDGE_PACK_ALIGN - address % EDGE_PACK_ALIGN) % EDGE_PACK_ALIGN;
  }
};

// The repacked constants of `call`, whose argument 1 they are; `held` keeps others away while they are in use.
void *packed(edge_call &call, std::unique_lock<std::mutex> &held) {
  static std::mutex mutex;
  static std::map<std::pair<const void *, size_t>, Packed> kept;
  held = std::unique_lock<std::mutex>(mutex);
  if (kept.size() > 4096) kept.clear();  // an application that loads program after program, each elsewhere
  const edge_tensor &weight = call.args[1]->as.tensor;
  Packed &entry = kept[{weight.data, weight.bytes}];
  const size_t bytes = call.packed_bytes + EDGE_PACK_ALIGN;
  if (entry.storage.size() == bytes && std::memcmp(entry.source.data(), weight.data, weight.bytes) == 0) {
    return entry.data();
  }
  entry.source.assign(static_cast<const unsigned char *>(weight.data),
                      static_cast<const unsigned char *>(weight.data) + weight.bytes);
  entry.storage.resize(bytes);
  call.packed = entry.data();
  call.op->pack(&call);
  return entry.data();
}

void fail(KernelRuntimeContext &context, Error error, const char *text) {
  ET_LOG(Error, "%s", text);
  context.fail(error);
}

void call(const edge_op &op, KernelRuntimeContext &context, Span<EValue *> stack) {
  edge_error error = {};
  Arguments arguments;
  edge_call one = {};
  one.op = &op;
  one.args = arguments.pointers;
  one.arg_count = op.arg_count;
  one.kernels = edge_kernels_at(0);
  one.error = &error;
  if (stack.size() < op.arg_count) {
    edge_fail(&one, EDGE_BAD_ARGUMENT, "%zu arguments, expected %u", stack.size(), unsigned{op.arg_count});
    return fail(context, Error::InvalidArgument, error.text);
  }
  for (size_t i = 0; i < op.arg_count; ++i) {
    if (const char *reason = arguments.add(i, *stack[i])) {
      edge_fail(&one, EDGE_UNSUPPORTED, "%s", reason);
      return fail(context, Error::NotSupported, error.text);
    }
  }
  // Which tensors are constants is not told here; the weights are, or change seldom enough.
  if (arguments.values[1].kind == EDGE_TENSOR) arguments.values[1].as.tensor.constant = true;
  if (op.check(&one) != EDGE_OK) return fail(context, Error::InvalidArgument, error.text);

  // The application may have given the runtime no temporary memory, or too little of it.
  std::vector<std::max_align_t> own;
  if (one.scratch_bytes > 0) {
    auto temporary = context.allocate_temp(one.scratch_bytes, alignof(std::max_align_t));
    if (temporary.ok()) {
      one.scratch = *temporary;
    } else {
      own.resize((one.scratch_bytes + sizeof(std::max_align_t) - 1) / sizeof(std::max_align_t));
      one.scratch = own.data();
    }
  }
  std::unique_lock<std::mutex> held;
  if (one.packed_bytes > 0) one.packed = packed(one, held);
  if (op.run(&one) != EDGE_OK) fail(context, Error::InvalidArgument, error.text);
}

template <const edge_op *op>
void kernel(KernelRuntimeContext &context, Span<EValue *> stack) {
  call(*op, context, stack);
}

#define EDGE_KERNEL(symbol) Kernel(edge_op_##symbol.name, kernel<&edge_op_##symbol>),
[[maybe_unused]] const Error registered = [] {
  const Kernel kernels[] = {EDGE_OWN_OPERATORS(EDGE_KERNEL)};
  return executorch::runtime::register_kernels({kernels, sizeof kernels / sizeof kernels[0]});
}();
#undef EDGE_KERNEL

}  // namespace
