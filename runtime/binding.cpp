// edge.runtime._core: the C core for Python. Arrays cross the border through the buffer protocol, so the module needs
// numpy only to make the arrays that it returns. See _core.pyi for what Python sees.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "binding_values.h"
#include "edge_core.h"
#include "kernels/kernels.h"
#include "op.h"
#include "peak.h"
#include "sha256.h"
#include "threads.h"

namespace {

using namespace edge_binding;

nb::list operators() {
  size_t count = 0;
  const edge_op *const *table = edge_ops(&count);
  nb::list names;
  for (size_t i = 0; i < count; ++i) names.append(nb::str(table[i]->name));
  return names;
}

nb::list isas() {
  nb::list names;
  for (size_t i = 0; const edge_kernels *kernels = edge_kernels_at(i); ++i) names.append(nb::str(kernels->isa));
  return names;
}

// The best kernels for this machine, or those that $EDGE_ISA names.
const edge_kernels *choose_kernels() {
  const char *wanted = std::getenv("EDGE_ISA");
  if (wanted == nullptr || *wanted == '\0') return edge_kernels_at(0);
  if (const edge_kernels *kernels = edge_kernels_named(wanted)) return kernels;
  std::string known;
  for (size_t i = 0; const edge_kernels *kernels = edge_kernels_at(i); ++i) {
    known += std::string(i ? ", " : "") + kernels->isa;
  }
  refuse(std::string("EDGE_ISA is '") + wanted + "'; this machine runs " + known);
}

// A pool of threads in memory of its own; none for one thread.
class Threads {
 public:
  explicit Threads(size_t count) {
    if (count < 2) return;
    memory_ = Block(edge_threads_bytes(count));
    pool_ = edge_threads_start(memory_.data(), count);
  }
  ~Threads() { edge_threads_stop(pool_); }
  Threads(const Threads &) = delete;
  Threads &operator=(const Threads &) = delete;
  edge_threads *get() const { return pool_; }

 private:
  Block memory_;
  edge_threads *pool_ = nullptr;
};

const edge_op *find_op(const std::string &name) {
  size_t colons = name.find("::");
  size_t dot = name.find('.', colons == std::string::npos ? 0 : colons);
  size_t split = dot == std::string::npos ? name.size() : dot;
  const char *overload = dot == std::string::npos ? "" : name.data() + dot + 1;
  const edge_op *op = edge_find_op(name.data(), split, overload, dot == std::string::npos ? 0 : name.size() - dot - 1);
  if (op == nullptr) throw CoreFailure{EDGE_UNSUPPORTED, "no operator '" + name + "'; operators() lists them"};
  return op;
}

nb::tuple covered_arguments(const std::string &name) {
  const edge_op *op = find_op(name);
  nb::list found;
  for (uint32_t i = 0; i < edge_first_output(op); ++i) {
    if (op->covers >> i & 1u) found.append(i);
  }
  return nb::tuple(found);
}

void run_op(const std::string &name, nb::list args, int threads) {
  const edge_op *op = find_op(name);
  size_t count = nb::len(args);
  if (count < op->arg_count) {
    refuse(name + ": " + std::to_string(count) + " arguments given, " + std::to_string(op->arg_count) +
           " wanted (outputs from argument " + std::to_string(edge_first_output(op)) + " on)");
  }
  Arguments arguments;
  std::vector<edge_value *> values;
  for (size_t i = 0; i < count; ++i) {
    bool output = i >= edge_first_output(op) && i < op->arg_count;
    values.push_back(arguments.add(args[i], name + " argument " + std::to_string(i), output));
    // Nothing changes them while the operator runs, so it may repack them as it would a program's constants.
    if (!output && values.back()->kind == EDGE_TENSOR) values.back()->as.tensor.constant = true;
  }
  Threads pool(thread_count(threads));
  edge_error error{};
  edge_call call{};
  call.op = op;
  call.args = values.data();
  call.arg_count = static_cast<uint32_t>(count);
  call.kernels = choose_kernels();
  call.threads = pool.get();
  call.error = &error;
  expect_ok(op->check(&call), error);
  Block scratch(call.scratch_bytes), packed(call.packed_bytes);
  call.scratch = scratch.data();
  arguments.attach();
  if (call.packed_bytes > 0) {
    call.packed = packed.data();
    op->pack(&call);
  }
  edge_status status;
  {
    nb::gil_scoped_release released;
    status = op->run(&call);
  }
  expect_ok(status, error);
}

constexpr size_t kReadBytes = size_t{64} << 20;  // much larger than an L2, and at least the size of most L3s

nb::dict measure_peak(double milliseconds, size_t read_bytes) {
  if (!(milliseconds > 0 && milliseconds <= 10000)) refuse("milliseconds: expected more than 0 and at most 10000");
  if (read_bytes < 4096 || read_bytes > size_t{1} << 30) refuse("read_bytes: expected 4096 to 2^30");
  edge_peak peak{};
  {
    nb::gil_scoped_release released;
    std::vector<uint8_t> buffer(read_bytes, 1);
    auto seconds = [] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    };
    edge_measure_peak(seconds, milliseconds / 1000, buffer.data(), buffer.size(), &peak);
  }
  nb::dict int8, float32, answer;
  for (size_t i = 0; i < peak.int8_count; ++i) int8[peak.int8[i].name] = peak.int8[i].macs_per_second;
  for (size_t i = 0; i < peak.float32_count; ++i) float32[peak.float32[i].name] = peak.float32[i].macs_per_second;
  answer["int8"] = int8;
  answer["float32"] = float32;
  answer["read"] = peak.read_bytes_per_second;
  return answer;
}

nb::str sha256(nb::object data) {
  View view(data, PyBUF_SIMPLE, "data");
  uint8_t digest[EDGE_SHA256_BYTES];
  {
    nb::gil_scoped_release released;
    edge_sha256 hash;
    edge_sha256_start(&hash);
    edge_sha256_add(&hash, view.get().buf, static_cast<size_t>(view.get().len));
    edge_sha256_finish(&hash, digest);
  }
  char text[2 * EDGE_SHA256_BYTES + 1];
  for (int i = 0; i < EDGE_SHA256_BYTES; ++i) std::snprintf(text + 2 * i, 3, "%02x", digest[i]);
  return nb::str(text);
}

class Learner;
class Program;
nb::dict learning_budget(const Program &program, int layers, int classes, float rate, const std::string &loss);

class Program {
 public:
  explicit Program(nb::object data, int threads, bool mapped)
      : view_(data, PyBUF_SIMPLE, "program"), threads_(thread_count(threads)) {
    options_.kernels = choose_kernels();
    options_.threads = threads_.get();
    const void *bytes = view_.get().buf;
    size_t size = static_cast<size_t>(view_.get().len);
    if (reinterpret_cast<std::uintptr_t>(bytes) % 16 != 0) {  // a slice of a memory view, say
      copy_ = Block(size);
      if (size > 0) std::memcpy(copy_.data(), bytes, size);
      bytes = copy_.data();
    } else if (mapped) {
      options_.repacked = [](void *, const void *constant, size_t count) { give_back(constant, count); };
      options_.copied_constant_bytes = kPage;
    }
    edge_error error{};
    edge_status status;
    {
      nb::gil_scoped_release released;
      status = edge_measure(bytes, size, &options_, &need_, &error);
    }
    expect_ok(status, error);
    uint64_t most = most_bytes_of_a_program();
    if (need_.total_bytes > most) {
      throw CoreFailure{EDGE_UNSUPPORTED, "needs " + std::to_string(need_.total_bytes >> 20) +
                                              " MiB to run; at most " + std::to_string(most >> 20) +
                                              " MiB are given on this machine (half its memory, and no more than "
                                              "4096 MiB): use a smaller model"};
    }
    block_ = Block(need_.total_bytes);
    {
      nb::gil_scoped_release released;
      status = edge_prepare(bytes, size, &options_, block_.data(), block_.bytes(), &model_, &error);
      // The file's tables and what else only loading reads.
      if (mapped) give_back(view_.get().buf, size);
    }
    expect_ok(status, error);
  }

  nb::list inputs() const {
    nb::list list;
    for (size_t i = 0; i < edge_input_count(model_); ++i) list.append(describe(*edge_input(model_, i)));
    return list;
  }

  nb::list outputs() const {
    nb::list list;
    for (size_t i = 0; i < edge_output_count(model_); ++i) list.append(describe(*edge_output(model_, i)));
    return list;
  }

  nb::list instructions() const {
    nb::list list;
    for (size_t i = 0; i < edge_instruction_count(model_); ++i) {
      const edge_call *call = edge_instruction(model_, i);
      list.append(nb::make_tuple(call->op->name, call->macs, arguments(*call, 0, call->arg_count, false)));
    }
    return list;
  }

  nb::list run(nb::list arrays) {
    Inputs inputs(*this, arrays);
    Turn turn(*this);
    inputs.copy();
    edge_error error{};
    edge_status status;
    {
      nb::gil_scoped_release released;
      status = edge_run(model_, nullptr, nullptr, &error);
    }
    expect_ok(status, error);
    nb::list list;
    for (size_t i = 0; i < edge_output_count(model_); ++i) list.append(make_array(*edge_output(model_, i)));
    return list;
  }

  nb::list trace(nb::list arrays) {
    // An output may lie on an input: the inputs of an instruction are copied before it runs, behind the one before it.
    struct Trace {
      const edge_model *model;
      nb::list calls;
      nb::object given;
      std::exception_ptr failure;

      void look_ahead(size_t index) {
        const edge_call *next = edge_instruction(model, index);
        if (next != nullptr) given = arguments(*next, 0, edge_first_output(next->op), true);
      }
    } trace{model_, {}, {}, {}};
    Inputs inputs(*this, arrays);
    Turn turn(*this);
    inputs.copy();
    trace.look_ahead(0);
    edge_error error{};
    edge_status status = edge_run(
        model_,
        [](void *user, size_t index, const edge_call *call) {
          Trace *trace = static_cast<Trace *>(user);
          if (trace->failure) return;
          try {  // an exception must not cross the C core
            trace->calls.append(nb::make_tuple(call->op->name, trace->given,
                                               arguments(*call, edge_first_output(call->op), call->arg_count, true)));
            trace->look_ahead(index + 1);
          } catch (...) {
            trace->failure = std::current_exception();
          }
        },
        &trace, &error);
    if (trace.failure) std::rethrow_exception(trace.failure);
    expect_ok(status, error);
    return trace.calls;
  }

  nb::list profile(nb::list arrays) {
    using Clock = std::chrono::steady_clock;
    Inputs inputs(*this, arrays);
    Turn turn(*this);
    inputs.copy();
    std::vector<Clock::time_point> ends;
    ends.reserve(edge_instruction_count(model_) + 1);
    edge_error error{};
    edge_status status;
    {
      nb::gil_scoped_release released;
      ends.push_back(Clock::now());
      status = edge_run(
          model_,
          [](void *user, size_t, const edge_call *) {
            static_cast<std::vector<Clock::time_point> *>(user)->push_back(Clock::now());
          },
          &ends, &error);
    }
    expect_ok(status, error);
    nb::list list;
    for (size_t i = 0; i + 1 < ends.size(); ++i) {
      const edge_call *call = edge_instruction(model_, i);
      int64_t nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(ends[i + 1] - ends[i]).count();
      list.append(nb::make_tuple(call->op->name, nanoseconds, call->macs));
    }
    return list;
  }

  size_t state_bytes() const { return need_.state_bytes; }
  size_t arena_bytes() const { return need_.arena_bytes; }
  size_t scratch_bytes() const { return need_.scratch_bytes; }
  size_t packed_bytes() const { return need_.packed_bytes; }
  uint64_t macs() const { return need_.macs; }
  const char *isa() const { return options_.kernels->isa; }
  size_t threads() const { return edge_thread_count(options_.threads); }

 private:
  friend class Learner;
  friend nb::dict learning_budget(const Program &, int, int, float, const std::string &);

  // One run at a time: the arena is shared. Waits without the GIL, so that whoever runs can finish.
  class Turn {
   public:
    explicit Turn(Program &program) : lock_(program.running_, std::defer_lock) {
      nb::gil_scoped_release released;
      lock_.lock();
    }

   private:
    std::unique_lock<std::mutex> lock_;
  };

  // The caller's arrays, checked against the program's inputs; held until copied.
  class Inputs {
   public:
    Inputs(Program &program, nb::list arrays) : program_(program) {
      size_t expected = edge_input_count(program.model_);
      if (nb::len(arrays) != expected) {
        refuse("expected " + std::to_string(expected) + " input" + (expected == 1 ? "" : "s") + ", got " +
               std::to_string(nb::len(arrays)));
      }
      for (size_t i = 0; i < expected; ++i) {
        char what[32];
        std::snprintf(what, sizeof what, "input %zu", i);
        const edge_tensor &input = *edge_input(program.model_, i);
        auto refuse_given = [&](const std::string &given) {
          refuse(std::string(what) + ": expected " + tensor_text(input) + ", got " + given);
        };
        nb::object array = arrays[i];
        if (!PyObject_CheckBuffer(array.ptr())) {
          refuse_given(nb::cast<std::string>(array.type().attr("__name__")) + "; pass a numpy array");
        }
        views_.push_back(std::make_unique<View>(array, PyBUF_STRIDES | PyBUF_FORMAT, what));
        edge_tensor given{};
        try {
          given = views_.back()->tensor(what);
        } catch (const CoreFailure &) {
          refuse_given(nb::cast<std::string>(nb::str(nb::getattr(array, "dtype", nb::none()))));
        }
        if (given.dtype != input.dtype || given.rank != input.rank ||
            std::memcmp(given.sizes, input.sizes, sizeof given.sizes[0] * given.rank) != 0) {
          refuse_given(tensor_text(given));
        }
      }
    }

    // To the arena, in C order whatever the array's strides.
    void copy() {
      for (size_t i = 0; i < views_.size(); ++i) {
        edge_tensor *input = edge_input(program_.model_, i);
        if (input->bytes == 0) continue;
        Py_buffer buffer = views_[i]->get();
        if (PyBuffer_ToContiguous(input->data, &buffer, buffer.len, 'C') != 0) throw nb::python_error();
      }
    }

   private:
    Program &program_;
    std::vector<std::unique_ptr<View>> views_;
  };

  static constexpr size_t kPage = 4096;  // the smallest of any machine

  static nb::tuple describe(const edge_tensor &tensor) {
    return nb::make_tuple(edge_dtype_name(tensor.dtype), shape_tuple(tensor));
  }

  static nb::list arguments(const edge_call &call, uint32_t from, uint32_t to, bool with_data) {
    nb::list list;
    for (uint32_t i = from; i < to; ++i) list.append(to_python(*call.args[i], with_data));
    return list;
  }

  View view_;
  Threads threads_;
  edge_options options_{};
  Block copy_;
  Block block_;
  edge_requirements need_{};
  edge_model *model_ = nullptr;
  std::mutex running_;
};

}  // namespace

#include "binding_learn.h"

NB_MODULE(_core, module) {
  module.doc() = "The C core: executes ExecuTorch .pte programs without ExecuTorch or PyTorch.";

  // args = (status, text); nanobind's own exception type carries a text alone.
  PyObject *core_error = PyErr_NewExceptionWithDoc(
      "edge.runtime._core.CoreError",
      "What the core refused: args are the status ('bad-file', 'unsupported' or 'bad-argument') and one line of text.",
      nullptr, nullptr);
  if (core_error == nullptr) throw nb::python_error();
  module.attr("CoreError") = nb::handle(core_error);
  nb::register_exception_translator(
      [](const std::exception_ptr &pointer, void *type) {
        try {
          std::rethrow_exception(pointer);
        } catch (const CoreFailure &failure) {
          nb::tuple arguments = nb::make_tuple(status_name(failure.status), failure.text);
          PyErr_SetObject(static_cast<PyObject *>(type), arguments.ptr());
        }
      },
      core_error);

  module.def("covered_arguments", &covered_arguments, nb::arg("name"),
             "Tensor arguments of an operator that its output may lie on.");
  module.def("operators", &operators, "Names of the operators that the core runs, with namespace and overload.");
  module.def("isas", &isas, "Names of the kernels that this machine runs, the best first; $EDGE_ISA chooses one.");
  module.def("run_op", &run_op, nb::arg("name"), nb::arg("args"), nb::arg("threads") = 1,
             "Checks and runs one operator; the trailing arrays of `args` are its outputs, written in place.");
  module.def("sha256", &sha256, nb::arg("data"), "SHA-256 of a buffer's bytes, in hexadecimal.");
  module.def("measure_peak", &measure_peak, nb::arg("milliseconds") = 50.0, nb::arg("read_bytes") = kReadBytes,
             "Multiply-accumulates a second by instruction, int8 and float32, and bytes read a second of so many that are "
             "read over and over, on one thread.");

  nb::class_<Program>(module, "Program", "A loaded .pte program: constants are read in place from the bytes given.")
      .def(nb::init<nb::object, int, bool>(), nb::arg("data"), nb::arg("threads") = 1, nb::arg("mapped") = false)
      .def_prop_ro("inputs", &Program::inputs, "(dtype, shape) of every input.")
      .def_prop_ro("outputs", &Program::outputs, "(dtype, shape) of every output.")
      .def_prop_ro("state_bytes", &Program::state_bytes, "Bytes of the value and instruction tables.")
      .def_prop_ro("arena_bytes", &Program::arena_bytes, "Bytes of activations.")
      .def_prop_ro("scratch_bytes", &Program::scratch_bytes, "Bytes of the largest operator's temporary memory.")
      .def_prop_ro("packed_bytes", &Program::packed_bytes, "Bytes of weights repacked for this CPU.")
      .def_prop_ro("isa", &Program::isa, "Name of the kernels it runs on.")
      .def_prop_ro("threads", &Program::threads, "Number of threads it runs on, the caller's among them.")
      .def_prop_ro("macs", &Program::macs, "Multiply-accumulates of one run.")
      .def_prop_ro("instructions", &Program::instructions, "(operator, macs, arguments) of every instruction.")
      .def("run", &Program::run, nb::arg("inputs"), "The outputs, as new arrays.")
      .def("trace", &Program::trace, nb::arg("inputs"), "(operator, inputs, outputs) of every instruction, copied.")
      .def("profile", &Program::profile, nb::arg("inputs"), "(operator, nanoseconds, macs) of every instruction.");
  bind_learning(module);
}
