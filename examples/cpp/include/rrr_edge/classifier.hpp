/// The answers of rrr_edge.Classifier without Python: the OpenVINO engine of a bundle, its labels, its crop and resize.
///
///     rrr_edge::Classifier classifier("mugs.rrr");
///     const rrr_edge::Prediction prediction = classifier.predict({pixels, width, height});  // RGB bytes
///
/// Needs C++17, Linux, OpenVINO, nlohmann-json and OpenSSL's libcrypto.
#pragma once

#include <string.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <new>
#include <openvino/runtime/core.hpp>
#include <openvino/runtime/properties.hpp>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "fit.hpp"

namespace rrr_edge {

/// `branch_probabilities` [B][K] are the branches' own answers, of which `probabilities` [K] is the mean; `measures` of
/// doubt go from 0 (sure) to 1, and `uncertainty` is "entropy" among them. As `rrr-edge calibrate` found: `answered` is
/// false where doubt is too large for the label to be the answer, `confidence` is the probability with the temperature,
/// and one of the `candidates`, likeliest first, is right, if there are sets.
struct Prediction {
  std::string label;
  std::size_t index;
  float probability, uncertainty;
  bool answered;
  double confidence;
  std::vector<std::size_t> candidates;
  std::vector<float> probabilities;
  std::vector<std::vector<float>> branch_probabilities;
  std::map<std::string, double> measures;
};

/// Which engine. `threads` 0 takes the target's number, or else all usable cores; of each frame `roi` is looked at.
struct Options {
  std::string target = "openvino", precision = "int8";
  int threads = 0;
  Region roi = {};
};

namespace detail {

using Row = std::vector<float>;

inline double logarithm(double p) { return std::log(std::max(p, 1e-12)); }

/// Over its largest value.
inline double entropy(const Row& row) {
  double nats = 0;
  for (const float p : row) nats -= p * logarithm(p);
  return nats / std::log(static_cast<double>(row.size()));
}

/// The measures of rrr_edge.bundle.doubt, of the mean `row` [K] of the `branches` [B][K].
inline std::map<std::string, double> measures(const Row& row, const std::vector<Row>& branches) {
  std::vector<double> sorted(row.begin(), row.end()), votes(row.size());
  std::nth_element(sorted.begin(), sorted.end() - 2, sorted.end());
  const double best = sorted.back(), second = sorted.end()[-2], count = static_cast<double>(branches.size());
  double entropies = 0, distances = 0;
  for (const Row& branch : branches) {
    ++votes[std::max_element(branch.begin(), branch.end()) - branch.begin()];
    entropies += entropy(branch);
    for (std::size_t i = 0; i < row.size(); ++i) distances += std::abs(static_cast<double>(branch[i]) - row[i]) / 2;
  }
  const auto share = [](double value) { return std::clamp(value, 0.0, 1.0); };
  return {{"max_probability", share(1 - best)},
          {"entropy", share(entropy(row))},
          {"margin", share(1 - (best - second))},
          {"mutual_information", share(entropy(row) - entropies / count)},
          {"variation_ratio", 1 - *std::max_element(votes.begin(), votes.end()) / count},
          {"disagreement", distances / count}};
}

/// What OpenVINO, of whose many lines the last one says it, or nlohmann-json found wrong. Throws std::bad_alloc for
/// lack of memory, which OpenVINO wraps in errors of its own.
inline std::string reason(const std::exception& error) {
  std::string text = error.what();
  if (text.find("bad_alloc") != std::string::npos) throw std::bad_alloc();
  text.erase(text.find_last_not_of(" .\n") + 1);
  text.erase(0, text.rfind('\n') + 1);
  if (text[0] == '[') text.erase(0, text.find(' ') + 1);  // nlohmann-json's number of the error
  return text;
}

}  // namespace detail

/// Not thread-safe: one per thread.
class Classifier {
 public:
  /// Throws UsageError (not compiled; no such region or threads), BadInput (no bundle), CorruptArtifact, CannotRunHere.
  explicit Classifier(const std::filesystem::path& bundle, const Options& options = {}) : roi_(options.roi) {
    using namespace detail;
    static const std::map<std::string, Fit> fits = {
        {"crop", Fit::crop}, {"centre-crop", Fit::crop}, {"squash", Fit::squash}, {"pad", Fit::pad}};
    require_inside(roi_);
    const std::string name = options.target + "-" + options.precision, shown = quoted(bundle.string());
    const std::string asked = " --target " + quoted(options.target) + " --precision " + quoted(options.precision);
    const fs::path folder = bundle / "engines" / name;
    fs::path path = bundle / "manifest.json";  // what is being read
    std::string repair = "Copy the bundle again.";
    require<BadInput>(is_file(path), bundle.string() + " is not a bundle: it has no manifest.json.",
                      "Give the folder that `rrr-edge compress` wrote.");
    try {
      const Json manifest = read_record(path, "rrr-edge bundle");
      const Json &preprocess = known(manifest.at("preprocess"), "preprocess"), &spec = manifest.at("spec");
      const std::string fit = preprocess.at("fit"), model = listed(manifest, "model.onnx");
      require(fits.count(fit), "this header does not know its fit '" + fit + "'");
      fit_ = fits.at(fit);
      image_size_ = preprocess.at("image_size");
      manifest.at("labels").get_to(labels_);
      path = folder / "engine.json";
      repair = "Run: rrr-edge compile " + shown + asked;
      require<UsageError>(is_file(path), bundle.string() + " has no " + name + " engine.", repair);
      const Json engine = read_record(path, "rrr-edge engine");
      const Json& target = known(engine.at("target"), "target");
      require(target.at("name") == options.target && target.at("precision") == options.precision,
              "it is of another engine");
      for (const Json& file : engine.at("files")) {
        const std::string part = file.at("name");
        require(file.at("sha256") == file_sha256(folder / part), part + " has changed since it was written");
      }
      require(engine.at("model_sha256") == model, "it was compiled from another model.onnx");
      path = folder / "model.xml";
      // A factored network has its base's branches; networks that never have several do not say so.
      load(path, engine, options.threads, spec.value("base", spec).value("branches", 1));
      path = folder / "calibrated.json";
      repair = "Run: rrr-edge calibrate " + shown + " PHOTOS" + asked;
      if (is_file(path)) read_calibration(path);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw CorruptArtifact(path.string() + " cannot be used: " + reason(error) + ".", repair);
    }
  }

  /// Throws BadInput (`frame` is no picture), GateFailed (the answer is no probability) or CannotRunHere.
  Prediction predict(const Frame& frame) {
    auto* image = images_.data<std::uint8_t>();
    fit(cut(frame, roi_), image_size_, image, fit_);
    const std::size_t batch = images_.get_shape()[0], bytes = images_.get_byte_size() / batch, classes = labels_.size();
    for (std::size_t i = 1; i < batch; ++i) std::copy_n(image, bytes, image + i * bytes);
    try {
      request_.infer();
    } catch (const std::exception& error) {
      throw CannotRunHere("OpenVINO cannot run the engine: " + detail::reason(error) + ".", "Compile it again.");
    }
    Prediction found;
    detail::Row& row = found.probabilities;
    const float* next = answers_.data<float>();
    row.assign(next, next + classes);
    next = branches_.data<float>();
    for (std::size_t i = 0; i < branches_.get_shape()[1]; ++i, next += classes) {
      found.branch_probabilities.emplace_back(next, next + classes);
    }
    found.index = std::max_element(row.begin(), row.end()) - row.begin();
    found.label = labels_[found.index];
    found.probability = row[found.index];
    const double best = detail::logarithm(found.probability);
    double sum = 0;
    for (const float p : row) sum += std::exp((detail::logarithm(p) - best) / temperature_);
    detail::require<GateFailed>(std::isfinite(sum), "The engine answers a picture with what is no probability.",
                                "Compile it with another precision, such as fp32.");
    found.confidence = 1 / sum;
    found.measures = detail::measures(row, found.branch_probabilities);
    found.uncertainty = static_cast<float>(found.measures["entropy"]);
    found.answered = found.measures[measure_] <= threshold_;
    for (std::size_t i = 0; i < levels_.size(); ++i) {
      if (i == found.index || row[i] >= levels_[i]) found.candidates.push_back(i);
    }
    std::stable_sort(found.candidates.begin(), found.candidates.end(), [&](auto a, auto b) { return row[a] > row[b]; });
    return found;
  }

  const std::vector<std::string>& labels() const { return labels_; }
  int image_size() const { return image_size_; }
  /// On which the engine computes.
  int threads() const { return threads_; }

 private:
  /// Throws CannotRunHere where this machine cannot run `engine`.
  void load(const std::filesystem::path& graph, const detail::Json& engine, int threads, std::size_t branches) {
    using namespace detail;
    static const std::map<std::string, ov::element::Type> kinds = {
        {"fp32", ov::element::f32}, {"bf16", ov::element::bf16}, {"fp16", ov::element::f16}};
    const auto fits = [](bool holds, const std::string& otherwise) {
      require<CannotRunHere>(holds, otherwise, "Choose another engine, or compile one here.");
    };
    const Json& target = engine.at("target");
    const std::string backend = target.at("backend"), device = target.at("device"), cpu = target.at("cpu");
    fits(backend == "openvino", "The engine's backend is \"" + backend + "\"; this header runs \"openvino\".");
    for (const char* part : {"model.xml", "model.bin"}) listed(engine, part);
    ov::Core core;
    const std::vector<std::string> devices = core.get_available_devices();
    fits(std::count(devices.begin(), devices.end(), device), "OpenVINO sees no device '" + device + "' here.");
    const std::string machine = cpu_name();
    fits(strcasestr(machine.c_str(), cpu.c_str()),
         "The engine is for a '" + cpu + "' CPU; this machine is " + machine + ".");
    const std::string precision = target.at("precision");
    std::string floats = precision;  // of the layers that are not quantised
    const Json ways = known(target.value("quantisation", Json()), "quantisation");
    if (precision == "int8") floats = ways.is_null() ? "fp32" : ways.at("float_precision");
    const auto able = core.get_property(device, ov::device::capabilities.name()).as<std::string>();
    for (const std::string& word : {precision, floats}) {
      fits(strcasestr(able.c_str(), word.c_str()), "This machine's " + device + " has no " + word + " arithmetic.");
    }
    const std::string here = ov::get_openvino_version().buildNumber, built = engine.at("versions").at("openvino");
    const auto release = [](const std::string& version) { return version.substr(0, version.find('.', 5)); };  // 2026.4
    fits(strverscmp(release(here).c_str(), release(built).c_str()) >= 0,
         "The engine was built with OpenVINO " + built + "; this is the older " + here + ".");
    // As rrr_edge.backends.openvino has it; without a hint OpenVINO would choose bf16 by itself where the CPU has it.
    const ov::AnyMap settings = {ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY), ov::num_streams(1),
                                 ov::inference_num_threads(threads_to_use(threads, target.at("threads"))),
                                 ov::hint::enable_cpu_pinning(false),
                                 ov::hint::inference_precision(kinds.at(floats))};
    ov::CompiledModel compiled = core.compile_model(graph.string(), device, settings);
    threads_ = compiled.get_property(ov::inference_num_threads);
    request_ = compiled.create_infer_request();
    images_ = request_.get_input_tensor();
    answers_ = request_.get_output_tensor(0);
    branches_ = request_.get_output_tensor(1);
    const std::size_t batch = target.at("batch"), size = image_size_, classes = labels_.size();
    const std::vector<ov::Shape> shapes = {images_.get_shape(), answers_.get_shape(), branches_.get_shape()};
    const std::vector<ov::Shape> due = {{batch, size, size, 3}, {batch, classes}, {batch, branches, classes}};
    require(shapes == due && images_.get_element_type() == ov::element::u8,
            "its inputs and outputs are not those of the manifest");
  }

  void read_calibration(const std::filesystem::path& path) {
    using namespace detail;
    const Json record = read_record(path, "rrr-edge calibration");
    require(record.at("engine_sha256") == file_sha256(path.parent_path() / "engine.json") &&
                record.at("labels") == labels_,
            "it is the calibration of another engine");
    measure_ = record.at("measure");
    require(measures({0, 1}, {{0, 1}}).count(measure_), "this header does not know its measure '" + measure_ + "'");
    temperature_ = record.at("temperature");
    const Json &promise = known(record.at("promise"), "promise"), &sets = known(record.at("sets"), "sets");
    if (!promise.is_null()) threshold_ = promise.at("threshold");
    if (!sets.is_null()) sets.at("levels").get_to(levels_);
    require(levels_.empty() || levels_.size() == labels_.size(), "it has levels of other classes");
  }

  std::vector<std::string> labels_;
  int image_size_ = 0, threads_ = 0;
  Fit fit_ = Fit::crop;
  Region roi_;
  std::string measure_ = "max_probability";  // of doubt, where the engine is not calibrated
  double threshold_ = 1, temperature_ = 1;
  std::vector<double> levels_;
  ov::InferRequest request_;
  ov::Tensor images_, answers_, branches_;  // [N, S, S, 3], [N, K], [N, B, K]
};

}  // namespace rrr_edge
