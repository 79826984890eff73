/// The answers of rrr_edge.Classifier without Python: the OpenVINO engine of a bundle, its labels, its crop and resize.
///
///     rrr_edge::Classifier classifier("mugs.rrr");
///     const rrr_edge::Prediction prediction = classifier.predict({pixels, width, height});  // RGB bytes
///
/// Needs C++17, Linux, OpenVINO, nlohmann-json and OpenSSL's libcrypto.
#pragma once

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <openvino/runtime/core.hpp>
#include <openvino/runtime/properties.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "doubt.hpp"
#include "errors.hpp"
#include "fit.hpp"
#include "machine.hpp"

namespace rrr_edge {

namespace fs = std::filesystem;

/// `uncertainty` is the entropy of `probabilities` [K] over its largest value log K: 0 is sure, 1 knows nothing.
/// `branch_probabilities` [B][K] are the branches' own answers, of which `probabilities` is the mean.
/// As `rrr-edge calibrate` found: `answered` is false where doubt is too large for the label to be the answer,
/// `confidence` is the probability with the temperature, and one of `candidates` is right, if there are sets.
struct Prediction {
  std::string label;
  std::size_t index;
  float probability, uncertainty;
  bool answered;
  double confidence;
  std::vector<std::size_t> candidates;
  std::vector<float> probabilities;
  std::vector<std::vector<float>> branch_probabilities;
};

/// Which engine of the bundle. `threads` 0 takes the target's number, or else all usable cores; of each frame `roi` is
/// looked at.
struct Options {
  std::string target = "openvino", precision = "int8";
  int threads = 0;
  Region roi = {};
};

/// Not thread-safe: one per thread.
class Classifier {
 public:
  /// Throws UsageError (not compiled), BadInput (no bundle), CorruptArtifact or CannotRunHere.
  explicit Classifier(const fs::path& bundle, const Options& options = {});

  /// Throws BadInput where `frame` is no picture. It is not kept.
  Prediction predict(const Frame& frame);

  const std::vector<std::string>& labels() const { return labels_; }
  int image_size() const { return image_size_; }

 private:
  void load(const fs::path& graph, const nlohmann::json& target, int threads, ov::Core& core);

  std::vector<std::string> labels_;
  int image_size_ = 0;
  Fit fit_ = Fit::crop;
  Region roi_;
  detail::Doubt doubt_;
  ov::InferRequest request_;
  ov::Tensor images_, probabilities_, branch_probabilities_;  // [N, S, S, 3], [N, K], [N, B, K]
};

namespace detail {

inline std::string in_case(std::string text, int (*change)(int)) {
  for (char& letter : text) letter = static_cast<char>(change(static_cast<unsigned char>(letter)));
  return text;
}

/// Throws CannotRunHere where this machine cannot run `engine`, judged by its record.
inline void require_fit(const Json& engine, const ov::Core& core, const std::string& repair) {
  const Json& target = engine.at("target");
  const std::string device = target.at("device"), cpu = target.at("cpu"), precision = target.at("precision");
  if (target.at("backend") != "openvino") {
    throw CannotRunHere("The engine's backend is " + target.at("backend").dump() + "; this header runs \"openvino\".",
                        "Choose an engine that was compiled for it.");
  }
  if (in_case(cpu_name(), std::tolower).find(in_case(cpu, std::tolower)) == std::string::npos) {
    throw CannotRunHere("The engine is for a '" + cpu + "' CPU; this machine is " + cpu_name() + ".",
                        "Choose an engine that was compiled for it.");
  }
  const std::vector<std::string> devices = core.get_available_devices();
  if (std::find(devices.begin(), devices.end(), device) == devices.end()) {
    throw CannotRunHere("OpenVINO sees no device '" + device + "' here.", "See that its plugin is beside libopenvino.");
  }
  const std::vector<std::string> able = core.get_property(device, ov::device::capabilities);
  if (std::find(able.begin(), able.end(), in_case(precision, std::toupper)) == able.end()) {
    throw CannotRunHere("This " + device + " (" + cpu_name() + ") has no " + precision + " arithmetic.",
                        "Choose an engine with another precision.");
  }
  const std::string built = engine.at("versions").at("openvino"), here = ov::get_openvino_version().buildNumber;
  int then[2] = {}, now[2] = {};
  std::sscanf(built.c_str(), "%d.%d", &then[0], &then[1]);
  std::sscanf(here.c_str(), "%d.%d", &now[0], &now[1]);
  if (std::lexicographical_compare(now, now + 2, then, then + 2)) {
    throw CannotRunHere("The engine was built with OpenVINO " + built + "; this is the older " + here + ".", repair);
  }
}

}  // namespace detail

inline Classifier::Classifier(const fs::path& bundle, const Options& options) : roi_(options.roi) {
  static const std::map<std::string, Fit> fits = {
      {"crop", Fit::crop}, {"centre-crop", Fit::crop}, {"squash", Fit::squash}, {"pad", Fit::pad}};
  require_region(roi_);
  const std::string name = options.target + "-" + options.precision;
  const fs::path folder = bundle / "engines" / name;
  std::ostringstream command;
  command << "Run: rrr-edge compile " << bundle << " --target " << options.target << " --precision "
          << options.precision;
  const std::string repair = command.str(), anew = "Copy the bundle again.";
  if (!fs::is_regular_file(bundle / "manifest.json")) {
    throw BadInput(bundle.string() + " is not a bundle: it has no manifest.json.",
                   "Give the folder that `rrr-edge compress` wrote.");
  }
  detail::Json model;
  detail::read_record(bundle / "manifest.json", "rrr-edge bundle", anew, [&](const detail::Json& manifest) {
    detail::require_known(manifest, {"seal", "schema", "kind", "name", "spec", "labels", "preprocess", "recipe", "cost",
                                     "accuracy", "provenance", "verification", "files", "parent", "chain"});
    const detail::Json& preprocess = manifest.at("preprocess");
    detail::require_known(preprocess, {"image_size", "mean", "std", "fit", "decoding"});
    const std::string fit = preprocess.at("fit");
    if (!fits.count(fit)) throw std::invalid_argument("this header does not know its fit '" + fit + "'");
    fit_ = fits.at(fit);
    labels_ = manifest.at("labels").get<std::vector<std::string>>();
    image_size_ = preprocess.at("image_size");
    for (const detail::Json& file : manifest.at("files")) {
      if (file.at("name") == "model.onnx") model = file.at("sha256");
    }
  });
  if (!fs::is_regular_file(folder / "engine.json")) {
    throw UsageError(bundle.string() + " has no " + name + " engine.", repair);
  }
  detail::read_record(folder / "engine.json", "rrr-edge engine", repair, [&](const detail::Json& engine) {
    detail::require_known(engine, {"seal", "schema", "kind", "target", "model_sha256", "files", "versions", "created",
                                   "verification", "precision_found", "calibration", "lowering", "lowering_ratios",
                                   "machine", "verified_by", "notes", "search", "products", "pair_times"});
    const detail::Json& target = engine.at("target");
    detail::require_known(target, {"name", "backend", "device", "precision", "lowering", "threads", "batch", "notes",
                                   "max_batch", "cpu", "gpu", "portability", "optimization_level", "workspace_mb",
                                   "compute_capabilities", "quantisation"});
    if (target.at("name") != options.target || target.at("precision") != options.precision) {
      throw std::invalid_argument("it is of another engine");
    }
    for (const detail::Json& file : engine.at("files")) {
      detail::check_file(folder / std::string(file.at("name")), file, repair);
    }
    if (engine.at("model_sha256") != model) throw std::invalid_argument("it was compiled from another model.onnx");
    ov::Core core;
    detail::require_fit(engine, core, repair);
    load(folder / "model.xml", target, options.threads, core);
  });
  doubt_ = detail::read_doubt(folder, labels_.size());
}

inline void Classifier::load(const fs::path& graph, const nlohmann::json& target, int threads, ov::Core& core) {
  static const std::map<std::string, ov::element::Type> hints = {
      {"fp32", ov::element::f32}, {"bf16", ov::element::bf16}, {"fp16", ov::element::f16}, {"int8", ov::element::f32}};
  threads = threads ? threads : target.at("threads").get<int>();
  // What the layers of an INT8 engine compute in that are no longer quantised.
  std::string floats = target.at("precision");
  if (floats == "int8" && target.contains("quantisation") && !target.at("quantisation").is_null()) {
    floats = target.at("quantisation").at("float_precision");
  }
  // As rrr_edge.backends.openvino has it; without a hint OpenVINO would choose bf16 by itself where the CPU has it.
  const ov::AnyMap settings = {
      ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY), ov::num_streams(1),
      ov::inference_num_threads(threads ? threads : detail::usable_cores()), ov::hint::enable_cpu_pinning(false),
      ov::hint::inference_precision(hints.at(floats))};
  const std::string device = target.at("device");
  try {
    request_ = core.compile_model(graph.string(), device, settings).create_infer_request();
  } catch (const ov::Exception& error) {  // of its many lines the last that is not empty says what is wrong
    std::string reason = error.what();
    reason.erase(reason.find_last_not_of(" .\n") + 1);
    throw std::invalid_argument("OpenVINO cannot load its graph: " + reason.substr(reason.rfind('\n') + 1));
  }
  images_ = request_.get_input_tensor();
  probabilities_ = request_.get_output_tensor(0);
  branch_probabilities_ = request_.get_output_tensor(1);
  const std::size_t batch = target.at("batch"), size = static_cast<std::size_t>(image_size_), classes = labels_.size();
  const ov::Shape branches = branch_probabilities_.get_shape();
  if (images_.get_element_type() != ov::element::u8 || images_.get_shape() != ov::Shape{batch, size, size, 3} ||
      probabilities_.get_shape() != ov::Shape{batch, classes} || branches.size() != 3 || branches[0] != batch ||
      branches[2] != classes) {
    throw std::invalid_argument("its graph does not have the inputs and outputs of the manifest");
  }
}

inline Prediction Classifier::predict(const Frame& frame) {
  auto* image = images_.data<std::uint8_t>();
  fit(cut(frame, roi_), image_size_, image, fit_);
  const std::size_t bytes = images_.get_byte_size() / images_.get_shape()[0];
  for (std::size_t i = 1; i < images_.get_shape()[0]; ++i) std::copy_n(image, bytes, image + i * bytes);
  request_.infer();
  Prediction answer;
  const float* next = probabilities_.data<float>();
  answer.probabilities.assign(next, next + labels_.size());
  next = branch_probabilities_.data<float>();
  for (std::size_t i = 0; i < branch_probabilities_.get_shape()[1]; ++i, next += labels_.size()) {
    answer.branch_probabilities.emplace_back(next, next + labels_.size());
  }
  const auto best = std::max_element(answer.probabilities.begin(), answer.probabilities.end());
  answer.index = static_cast<std::size_t>(best - answer.probabilities.begin());
  answer.label = labels_[answer.index];
  answer.probability = *best;
  const auto& measures = detail::measures();
  const auto doubt = [&](const std::string& name) {
    return measures.at(name)(answer.probabilities, answer.branch_probabilities);
  };
  answer.uncertainty = static_cast<float>(doubt("entropy"));
  answer.answered = doubt(doubt_.measure) <= doubt_.threshold;
  answer.confidence = detail::tempered(answer.probabilities, answer.index, doubt_.temperature);
  answer.candidates = detail::candidates(answer.probabilities, answer.index, doubt_.levels);
  return answer;
}

}  // namespace rrr_edge
