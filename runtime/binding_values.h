// What crosses between Python and the core: errors, arrays, and the values of an operator's arguments.
#ifndef EDGE_BINDING_VALUES_H
#define EDGE_BINDING_VALUES_H

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#if defined(_WIN32)
#define NOMINMAX
#include <windows.h>
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "edge_core.h"
#include "threads.h"

namespace edge_binding {

namespace nb = nanobind;

// ---- errors -------------------------------------------------------------------------------------------------------

// Becomes CoreError(status, text) in Python.
struct CoreFailure {
  edge_status status;
  std::string text;
};

inline const char *status_name(edge_status status) {
  switch (status) {
    case EDGE_BAD_FILE: return "bad-file";
    case EDGE_UNSUPPORTED: return "unsupported";
    default: return "bad-argument";
  }
}

[[noreturn]] inline void refuse(const std::string &text) { throw CoreFailure{EDGE_BAD_ARGUMENT, text}; }

inline void expect_ok(edge_status status, const edge_error &error) {
  if (status != EDGE_OK) throw CoreFailure{status, error.text};
}

inline size_t thread_count(int threads) {
  if (threads < 1) refuse("threads: " + std::to_string(threads) + " given; at least 1 is needed");
  return static_cast<size_t>(std::min(threads, EDGE_MAX_THREADS));
}

// ---- arrays -------------------------------------------------------------------------------------------------------

// The element type that a PEP 3118 format stands for, or -1.
inline int dtype_of_format(const char *format, Py_ssize_t item_bytes) {
  if (format == nullptr) return EDGE_UINT8;
  if (*format == '@' || *format == '=' || *format == '<') ++format;
  if (*format == '\0' || format[1] != '\0') return -1;
  switch (*format) {
    case '?': return EDGE_BOOL;
    case 'B': return EDGE_UINT8;
    case 'b': return EDGE_INT8;
    case 'f': return EDGE_FLOAT32;
    case 'd': return EDGE_FLOAT64;
    case 'h':
    case 'i':
    case 'l':
    case 'q': return item_bytes == 2 ? EDGE_INT16 : item_bytes == 4 ? EDGE_INT32 : item_bytes == 8 ? EDGE_INT64 : -1;
    default: return -1;
  }
}

inline std::string shape_text(const int32_t *sizes, int rank) {
  std::string text = "[";
  for (int i = 0; i < rank; ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + "]";
}

inline std::string tensor_text(const edge_tensor &tensor) {
  const char *dtype = edge_dtype_name(tensor.dtype);
  return std::string(dtype ? dtype : "unknown") + " " + shape_text(tensor.sizes, tensor.rank);
}

// Owns one buffer export of a Python object. `what` names it in errors; no text is made of it before there is one.
class View {
 public:
  View(nb::handle object, int flags, const char *what) {
    if (PyObject_GetBuffer(object.ptr(), &buffer_, flags) != 0) {
      nb::python_error reason;
      refuse(std::string(what) + ": " + nb::cast<std::string>(nb::str(reason.value())));
    }
  }
  ~View() { PyBuffer_Release(&buffer_); }
  View(const View &) = delete;
  View &operator=(const View &) = delete;

  const Py_buffer &get() const { return buffer_; }

  // The array as a tensor; its bytes are meaningful only where the export is contiguous.
  edge_tensor tensor(const char *what) const {
    edge_tensor tensor{};
    int dtype = dtype_of_format(buffer_.format, buffer_.itemsize);
    if (dtype < 0) refuse(std::string(what) + ": unsupported array format '" + buffer_.format + "'");
    if (buffer_.ndim > EDGE_MAX_RANK) {
      refuse(std::string(what) + ": " + std::to_string(buffer_.ndim) + " dimensions; the core takes at most " +
             std::to_string(EDGE_MAX_RANK));
    }
    for (int i = 0; i < buffer_.ndim; ++i) {
      if (buffer_.shape[i] > INT32_MAX) refuse(std::string(what) + ": a dimension is larger than 2^31-1");
      tensor.sizes[i] = static_cast<int32_t>(buffer_.shape[i]);
    }
    tensor.rank = static_cast<uint8_t>(buffer_.ndim);
    tensor.dtype = static_cast<uint8_t>(dtype);
    tensor.data = buffer_.buf;
    tensor.bytes = static_cast<size_t>(buffer_.len);
    return tensor;
  }

 private:
  Py_buffer buffer_{};
};

// Memory aligned for every kernel. The core itself asks for 16 bytes; 64 is a cache line.
class Block {
 public:
  Block() = default;
  explicit Block(size_t bytes) : bytes_(bytes) {
    if (bytes <= PTRDIFF_MAX - kAlignment) storage_.reset(new (std::nothrow) unsigned char[bytes + kAlignment]);
    if (!storage_) refuse("no memory for the " + std::to_string(bytes) + " bytes that this needs");
    std::uintptr_t address = reinterpret_cast<std::uintptr_t>(storage_.get());
    data_ = storage_.get() + (kAlignment - address % kAlignment) % kAlignment;
  }
  void *data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kAlignment = 64;
  std::unique_ptr<unsigned char[]> storage_;
  unsigned char *data_ = nullptr;
  size_t bytes_ = 0;
};

// What a program may ask for: a file of a few bytes can plan any amount, and all of it is written before the first run.
inline uint64_t most_bytes_of_a_program() {
  uint64_t half = UINT64_MAX;  // where the machine does not tell
#if defined(_WIN32)
  MEMORYSTATUSEX memory{};
  memory.dwLength = sizeof memory;
  if (GlobalMemoryStatusEx(&memory)) half = memory.ullTotalPhys / 2;
#else
  long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  if (pages > 0 && page > 0) half = static_cast<uint64_t>(pages) * static_cast<uint64_t>(page) / 2;
#endif
  return std::min(half, UINT64_C(4) << 30);
}

// Gives the system the whole pages of `bytes`, which lie in a mapping of a file that nobody writes: they come back from
// the file when they are read.
inline void give_back(const void *bytes, size_t size) {
#if defined(MADV_DONTNEED)
  const std::uintptr_t page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const std::uintptr_t start = reinterpret_cast<std::uintptr_t>(bytes);
  const std::uintptr_t first = (start + page - 1) / page * page, end = (start + size) / page * page;
  if (first < end) madvise(reinterpret_cast<void *>(first), end - first, MADV_DONTNEED);
#else
  (void)bytes, (void)size;
#endif
}

// ---- Python values for an operator --------------------------------------------------------------------------------

// Holds whatever the edge_values of one call point into.
class Arguments {
 public:
  // `writable`: the value is an output, so its array must allow writes.
  edge_value *add(nb::handle object, const std::string &what, bool writable) {
    values_.push_back(std::make_unique<edge_value>());
    edge_value *value = values_.back().get();
    if (object.is_none()) {
      value->kind = EDGE_NONE;
    } else if (PyBool_Check(object.ptr())) {
      value->kind = EDGE_BOOLEAN;
      value->as.boolean = object.ptr() == Py_True;
    } else if (PyLong_Check(object.ptr())) {
      value->kind = EDGE_INT;
      value->as.integer = nb::cast<int64_t>(object);
    } else if (PyFloat_Check(object.ptr())) {
      value->kind = EDGE_DOUBLE;
      value->as.real = nb::cast<double>(object);
    } else if (PyUnicode_Check(object.ptr())) {
      strings_.push_back(std::make_unique<std::string>(nb::cast<std::string>(object)));
      value->kind = EDGE_STRING;
      value->count = static_cast<uint32_t>(strings_.back()->size());
      value->as.string = strings_.back()->data();
    } else if (PyList_Check(object.ptr())) {
      add_list(nb::borrow<nb::list>(object), what, value, writable);
    } else {
      int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
      views_.push_back(std::make_unique<View>(object, flags, what.c_str()));
      value->kind = EDGE_TENSOR;
      value->as.tensor = views_.back()->tensor(what.c_str());
      size_t width = edge_dtype_bytes(value->as.tensor.dtype);
      if (reinterpret_cast<std::uintptr_t>(value->as.tensor.data) % width != 0) {
        refuse(what + ": its memory is not at a multiple of " + std::to_string(width) + " bytes; pass a copy");
      }
      data_.push_back({value, value->as.tensor.data});
      value->as.tensor.data = nullptr;  // a check may not look at data; `attach` adds it
    }
    return value;
  }

  void attach() {
    for (auto &[value, data] : data_) value->as.tensor.data = data;
  }

 private:
  void add_list(nb::list list, const std::string &what, edge_value *value, bool writable) {
    size_t count = nb::len(list);
    value->count = static_cast<uint32_t>(count);
    bool integers = true, booleans = count > 0, reals = count > 0;
    for (nb::handle item : list) {
      bool boolean = PyBool_Check(item.ptr());
      booleans = booleans && boolean;
      integers = integers && !boolean && PyLong_Check(item.ptr());
      reals = reals && PyFloat_Check(item.ptr());
    }
    if (integers) {
      integers_.push_back(std::make_unique<int64_t[]>(count));
      for (size_t i = 0; i < count; ++i) integers_.back()[i] = nb::cast<int64_t>(list[i]);
      value->kind = EDGE_INT_LIST;
      value->as.integers = integers_.back().get();
    } else if (booleans) {
      booleans_.push_back(std::make_unique<bool[]>(count));
      for (size_t i = 0; i < count; ++i) booleans_.back()[i] = nb::cast<bool>(list[i]);
      value->kind = EDGE_BOOL_LIST;
      value->as.booleans = booleans_.back().get();
    } else if (reals) {
      reals_.push_back(std::make_unique<double[]>(count));
      for (size_t i = 0; i < count; ++i) reals_.back()[i] = nb::cast<double>(list[i]);
      value->kind = EDGE_DOUBLE_LIST;
      value->as.reals = reals_.back().get();
    } else {
      lists_.push_back(std::make_unique<edge_value *[]>(count));
      edge_value **entries = lists_.back().get();
      for (size_t i = 0; i < count; ++i) {
        nb::object item = list[i];
        if (PyList_Check(item.ptr())) refuse(what + ": a list inside a list");
        entries[i] = add(item, what + "[" + std::to_string(i) + "]", writable);
        if (entries[i]->kind != EDGE_TENSOR && entries[i]->kind != EDGE_NONE) {
          refuse(what + ": a list holds ints, floats, bools, or arrays and None, not a mixture");
        }
      }
      value->kind = EDGE_TENSOR_LIST;
      value->as.tensors = entries;
    }
  }

  std::vector<std::unique_ptr<edge_value>> values_;
  std::vector<std::unique_ptr<View>> views_;
  std::vector<std::pair<edge_value *, void *>> data_;
  std::vector<std::unique_ptr<std::string>> strings_;
  std::vector<std::unique_ptr<int64_t[]>> integers_;
  std::vector<std::unique_ptr<bool[]>> booleans_;
  std::vector<std::unique_ptr<double[]>> reals_;
  std::vector<std::unique_ptr<edge_value *[]>> lists_;
};

// ---- values of the core, for Python --------------------------------------------------------------------------------

inline nb::tuple shape_tuple(const edge_tensor &tensor) {
  nb::list shape;
  for (int i = 0; i < tensor.rank; ++i) shape.append(tensor.sizes[i]);
  return nb::tuple(shape);
}

inline nb::object make_array(const edge_tensor &tensor) {
  nb::object array = nb::module_::import_("numpy").attr("empty")(shape_tuple(tensor), edge_dtype_name(tensor.dtype));
  if (tensor.bytes > 0) {
    View view(array, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE, "output");
    if (tensor.channels_last) {
      const size_t channels = static_cast<size_t>(tensor.sizes[1]);
      const size_t plane = static_cast<size_t>(tensor.sizes[2]) * static_cast<size_t>(tensor.sizes[3]);
      const float *from = static_cast<const float *>(tensor.data);
      float *to = static_cast<float *>(view.get().buf);
      for (size_t b = 0; b < static_cast<size_t>(tensor.sizes[0]); ++b, from += channels * plane) {
        for (size_t c = 0; c < channels; ++c) {
          for (size_t p = 0; p < plane; ++p) *to++ = from[p * channels + c];
        }
      }
    } else {
      std::memcpy(view.get().buf, tensor.data, tensor.bytes);
    }
  }
  return array;
}

// A value for Python; `with_data`: tensors as arrays (copies), else ("tensor", dtype, shape, constant).
inline nb::object to_python(const edge_value &value, bool with_data) {
  nb::list list;
  switch (value.kind) {
    case EDGE_TENSOR:
      if (with_data) return make_array(value.as.tensor);
      return nb::make_tuple("tensor", edge_dtype_name(value.as.tensor.dtype), shape_tuple(value.as.tensor),
                            value.as.tensor.constant);
    case EDGE_INT: return nb::int_(value.as.integer);
    case EDGE_BOOLEAN: return nb::bool_(value.as.boolean);
    case EDGE_DOUBLE: return nb::float_(value.as.real);
    case EDGE_STRING: return nb::steal(PyUnicode_DecodeUTF8(value.as.string, value.count, "replace"));
    case EDGE_INT_LIST:
      for (uint32_t i = 0; i < value.count; ++i) list.append(value.as.integers[i]);
      return list;
    case EDGE_DOUBLE_LIST:
      for (uint32_t i = 0; i < value.count; ++i) list.append(value.as.reals[i]);
      return list;
    case EDGE_BOOL_LIST:
      for (uint32_t i = 0; i < value.count; ++i) list.append(value.as.booleans[i]);
      return list;
    case EDGE_TENSOR_LIST:
      for (uint32_t i = 0; i < value.count; ++i) list.append(to_python(*value.as.tensors[i], with_data));
      return list;
    default: return nb::none();
  }
}

}  // namespace edge_binding

#endif
