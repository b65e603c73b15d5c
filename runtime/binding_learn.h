// edge.runtime._core.Learner: the C core's learning for Python. Part of binding.cpp, behind Program.
#ifndef EDGE_BINDING_LEARN_H
#define EDGE_BINDING_LEARN_H

#include "learn/learn.h"

namespace {

// 0 layers stand for all of them.
edge_learn_plan learn_plan(int layers, int classes, float rate, const std::string &loss) {
  if (layers < 0 || classes < 0) refuse("layers and classes: expected 0 or more");
  edge_learn_plan plan{};
  plan.layers = layers == 0 ? EDGE_LEARN_ALL : static_cast<uint32_t>(layers);
  plan.classes = static_cast<uint32_t>(classes);
  plan.learning_rate = rate;
  if (loss != "cross-entropy" && loss != "squared") refuse("loss '" + loss + "': expected cross-entropy or squared");
  plan.loss = loss == "squared" ? EDGE_LOSS_SQUARED : EDGE_LOSS_CROSS_ENTROPY;
  return plan;
}

nb::dict budget_dict(const edge_learn_budget &budget) {
  nb::dict answer;
  answer["total_bytes"] = budget.total_bytes;
  answer["state_bytes"] = budget.state_bytes;
  answer["weight_bytes"] = budget.weight_bytes;
  answer["activation_bytes"] = budget.activation_bytes;
  answer["gradient_bytes"] = budget.gradient_bytes;
  answer["layers"] = budget.layers;
  answer["classes"] = budget.classes;
  answer["parameters"] = budget.parameters;
  answer["body"] = budget.body;
  return answer;
}

nb::dict learning_budget(const Program &program, int layers, int classes, float rate, const std::string &loss) {
  const edge_learn_plan plan = learn_plan(layers, classes, rate, loss);
  edge_learn_budget budget{};
  edge_error error{};
  expect_ok(edge_learn_measure(program.model_, &plan, &budget, &error), error);
  return budget_dict(budget);
}

// What to make a learner with for weights that were saved.
nb::tuple learned_plan(nb::bytes blob, nb::bytes program_hash) {
  if (program_hash.size() != EDGE_LEARNED_HASH_BYTES) refuse("program hash: expected 32 bytes");
  edge_learn_plan plan{};
  edge_error error{};
  size_t used = 0;
  expect_ok(edge_learned_plan(blob.data(), blob.size(), static_cast<const uint8_t *>(program_hash.data()), &plan, &used,
                              &error),
            error);
  return nb::make_tuple(plan.layers, plan.classes, plan.learning_rate,
                        plan.loss == EDGE_LOSS_SQUARED ? "squared" : "cross-entropy", used);
}

class Learner {
 public:
  Learner(Program &program, int layers, int classes, float rate, const std::string &loss) : program_(program) {
    const edge_learn_plan plan = learn_plan(layers, classes, rate, loss);
    edge_error error{};
    expect_ok(edge_learn_measure(program.model_, &plan, &budget_, &error), error);
    block_ = Block(budget_.total_bytes);
    expect_ok(edge_learn_prepare(program.model_, &plan, block_.data(), block_.bytes(), &learner_, &error), error);
  }

  nb::object predict(nb::list arrays) {
    Program::Inputs inputs(program_, arrays);
    Program::Turn turn(program_);
    inputs.copy();
    edge_error error{};
    edge_status status;
    {
      nb::gil_scoped_release released;
      status = edge_learn_predict(learner_, &error);
    }
    expect_ok(status, error);
    edge_tensor answer = *edge_output(program_.model_, 0);  // its shape, but for the number of classes
    size_t count = 0;
    answer.data = const_cast<float *>(edge_learn_outputs(learner_, &count));
    answer.sizes[answer.rank - 1] = static_cast<int32_t>(count);
    answer.bytes = count * sizeof(float);
    return make_array(answer);
  }

  nb::tuple learn_class(nb::list arrays, uint32_t index) {
    return learn(arrays, [&](edge_learn_result *result, edge_error *error) {
      return edge_learn_class(learner_, index, result, error);
    });
  }

  nb::tuple learn_target(nb::list arrays, nb::object target) {
    View view(target, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT, "target");
    const edge_tensor given = view.tensor("target");
    if (given.dtype != EDGE_FLOAT32 || given.bytes != budget_.classes * sizeof(float)) {
      refuse("target: expected float32 [" + std::to_string(budget_.classes) + "], got " + tensor_text(given));
    }
    return learn(arrays, [&](edge_learn_result *result, edge_error *error) {
      return edge_learn_target(learner_, static_cast<const float *>(given.data), result, error);
    });
  }

  nb::object weights() {
    Program::Turn turn(program_);
    edge_tensor answer{};
    size_t count = 0;
    answer.data = edge_learn_weights(learner_, &count);
    answer.dtype = EDGE_FLOAT32;
    answer.rank = 1;
    answer.sizes[0] = static_cast<int32_t>(count);
    answer.bytes = count * sizeof(float);
    return make_array(answer);
  }

  void set_weights(nb::object weights) {
    View view(weights, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT, "weights");
    const edge_tensor given = view.tensor("weights");
    if (given.dtype != EDGE_FLOAT32 || given.bytes != budget_.weight_bytes) {
      refuse("weights: expected float32 [" + std::to_string(budget_.parameters) + "], got " + tensor_text(given));
    }
    Program::Turn turn(program_);
    size_t count = 0;
    std::memcpy(edge_learn_weights(learner_, &count), given.data, given.bytes);
  }

  nb::bytes save(nb::bytes program_hash) {
    if (program_hash.size() != EDGE_LEARNED_HASH_BYTES) refuse("program hash: expected 32 bytes");
    Program::Turn turn(program_);
    std::string blob(EDGE_LEARNED_HEADER_BYTES, '\0');
    edge_learned_header(learner_, static_cast<const uint8_t *>(program_hash.data()),
                        reinterpret_cast<uint8_t *>(&blob[0]));
    size_t count = 0;
    const float *weights = edge_learn_weights(learner_, &count);
    blob.append(reinterpret_cast<const char *>(weights), count * sizeof(float));
    return nb::bytes(blob.data(), blob.size());
  }

  void load(nb::bytes blob, nb::bytes program_hash) {
    if (program_hash.size() != EDGE_LEARNED_HASH_BYTES) refuse("program hash: expected 32 bytes");
    Program::Turn turn(program_);
    edge_error error{};
    expect_ok(edge_learned_load(learner_, blob.data(), blob.size(), static_cast<const uint8_t *>(program_hash.data()),
                                &error),
              error);
  }

  void reset() {
    Program::Turn turn(program_);
    edge_learn_reset(learner_);
  }

  void set_rate(float rate) {
    if (!(rate > 0.0f && rate < 3.4e38f)) refuse("learning rate: expected more than 0");
    Program::Turn turn(program_);
    edge_learn_set_rate(learner_, rate);
  }

  void set_samples(uint32_t samples) { edge_learn_set_samples(learner_, samples); }
  uint32_t samples() const { return edge_learn_samples(learner_); }
  nb::dict budget() const { return budget_dict(budget_); }

 private:
  template <typename Step>
  nb::tuple learn(nb::list arrays, Step step) {
    Program::Inputs inputs(program_, arrays);
    Program::Turn turn(program_);
    inputs.copy();
    edge_learn_result result{};
    edge_error error{};
    edge_status status;
    {
      nb::gil_scoped_release released;
      status = step(&result, &error);
    }
    expect_ok(status, error);
    return nb::make_tuple(result.predicted, result.fit);
  }

  Program &program_;
  edge_learn_budget budget_{};
  Block block_;
  edge_learner *learner_ = nullptr;
};

void bind_learning(nb::module_ &module) {
  module.def("learning_budget", &learning_budget, nb::arg("program"), nb::arg("layers"), nb::arg("classes"),
             nb::arg("rate"), nb::arg("loss"), "The bytes that a Learner takes, before it takes them.");
  module.def("learned_plan", &learned_plan, nb::arg("blob"), nb::arg("program_hash"),
             "(layers, classes, rate, loss, bytes used) of saved weights, after every check that needs no model.");
  nb::class_<Learner>(module, "Learner", "A program whose last layers learn, one sample at a time.")
      .def(nb::init<Program &, int, int, float, const std::string &>(), nb::arg("program"), nb::arg("layers"),
           nb::arg("classes"), nb::arg("rate"), nb::arg("loss"), nb::keep_alive<1, 2>())
      .def("predict", &Learner::predict, nb::arg("inputs"), "The output, as a new array.")
      .def("learn_class", &Learner::learn_class, nb::arg("inputs"), nb::arg("index"),
           "(class predicted before, probability of the true class before); takes one step.")
      .def("learn_target", &Learner::learn_target, nb::arg("inputs"), nb::arg("target"),
           "(class predicted before, fit before); takes one step towards a target vector.")
      .def("weights", &Learner::weights, "All trainable weights, as a new array.")
      .def("set_weights", &Learner::set_weights, nb::arg("weights"))
      .def("save", &Learner::save, nb::arg("program_hash"), "The weights as bytes, tied to the program.")
      .def("load", &Learner::load, nb::arg("blob"), nb::arg("program_hash"), "All of the weights, or none.")
      .def("reset", &Learner::reset, "Back to the program's own weights.")
      .def("set_rate", &Learner::set_rate, nb::arg("rate"))
      .def("set_samples", &Learner::set_samples, nb::arg("samples"))
      .def_prop_ro("samples", &Learner::samples)
      .def_prop_ro("budget", &Learner::budget);
}

}  // namespace

#endif
