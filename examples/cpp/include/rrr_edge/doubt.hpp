/// Whether an answer is given, how sure it is, and which labels may be right: rrr_edge.bundle.doubt without Python.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "bundle.hpp"

namespace rrr_edge::detail {

using Row = std::vector<float>;

/// What the engine's calibration says; without one every answer is given.
struct Doubt {
  std::string measure = "max_probability";
  double threshold = 1, temperature = 1;
  std::vector<double> levels;
};

inline double logarithm(float p) { return std::log(std::max(static_cast<double>(p), 1e-12)); }

/// The entropy of `row` over its largest value.
inline double entropy(const Row& row) {
  double nats = 0;
  for (const float p : row) nats -= p * logarithm(p);
  return nats / std::log(static_cast<double>(row.size()));
}

inline double share(double value) { return std::min(1.0, std::max(0.0, value)); }

inline double mean_over(const std::vector<Row>& branches, const std::function<double(const Row&)>& of) {
  double sum = 0;
  for (const Row& branch : branches) sum += of(branch);
  return sum / static_cast<double>(branches.size());
}

/// From 0 to 1, of the mean `row` [K] of the `branches` [B][K].
using Measure = double (*)(const Row& row, const std::vector<Row>& branches);

inline const std::map<std::string, Measure>& measures() {
  static const std::map<std::string, Measure> known = {
      {"max_probability",
       [](const Row& row, const std::vector<Row>&) -> double {
         return 1.0 - *std::max_element(row.begin(), row.end());
       }},
      {"entropy", [](const Row& row, const std::vector<Row>&) { return share(entropy(row)); }},
      {"margin",
       [](const Row& row, const std::vector<Row>&) {
         Row two(2);
         std::partial_sort_copy(row.begin(), row.end(), two.begin(), two.end(), std::greater<float>());
         return 1 - (static_cast<double>(two[0]) - two[1]);
       }},
      {"mutual_information",
       [](const Row& row, const std::vector<Row>& branches) {
         return share(entropy(row) - mean_over(branches, entropy));
       }},
      {"variation_ratio",
       [](const Row& row, const std::vector<Row>& branches) {
         std::vector<int> votes(row.size());
         for (const Row& branch : branches) ++votes[std::max_element(branch.begin(), branch.end()) - branch.begin()];
         return 1 - *std::max_element(votes.begin(), votes.end()) / static_cast<double>(branches.size());
       }},
      {"disagreement", [](const Row& row, const std::vector<Row>& branches) {
         return mean_over(branches, [&](const Row& branch) {
           double apart = 0;
           for (std::size_t i = 0; i < row.size(); ++i) apart += std::abs(static_cast<double>(branch[i]) - row[i]);
           return apart / 2;
         });
       }}};
  return known;
}

/// The probability of `index` where the logarithms of `row` are divided by the temperature.
inline double tempered(const Row& row, std::size_t index, double temperature) {
  const float best = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float p : row) sum += std::exp((logarithm(p) - logarithm(best)) / temperature);
  return std::exp((logarithm(row[index]) - logarithm(best)) / temperature) / sum;
}

/// The labels from their levels on, and `index`, likeliest first; none without levels.
inline std::vector<std::size_t> candidates(const Row& row, std::size_t index, const std::vector<double>& levels) {
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < levels.size(); ++i) {
    if (i == index || row[i] >= levels[i]) found.push_back(i);
  }
  std::stable_sort(found.begin(), found.end(), [&](std::size_t a, std::size_t b) { return row[a] > row[b]; });
  return found;
}

/// Of the engine in `folder`, for so many `classes`. Throws CorruptArtifact where it is not what was written.
inline Doubt read_doubt(const fs::path& folder, std::size_t classes) {
  Doubt found;
  if (!fs::exists(folder / "calibrated.json")) return found;
  const auto read = [&](const Json& calibration) {
    require_known(calibration, {"seal", "schema", "kind", "bundle", "engine", "engine_sha256", "photos",
                                "photos_sha256", "images", "correct", "labels", "temperature", "error_before",
                                "error_after", "measure", "rankings", "promise", "sets", "by_class", "notes",
                                "machine", "created"});
    if (calibration.at("engine_sha256") != sha256(std::ifstream(folder / "engine.json", std::ios::binary))) {
      throw std::invalid_argument("it is the calibration of another engine");
    }
    found.measure = calibration.at("measure");
    if (!measures().count(found.measure)) {
      throw std::invalid_argument("this header does not know its measure '" + found.measure + "'");
    }
    found.temperature = calibration.at("temperature");
    if (const Json& promise = calibration.at("promise"); !promise.is_null()) {
      require_known(promise, {"max_error", "confidence", "threshold", "photos", "answered", "wrong", "bound"});
      found.threshold = promise.at("threshold");
    }
    if (const Json& sets = calibration.at("sets"); !sets.is_null()) {
      require_known(sets, {"coverage", "levels", "own", "mean_size"});
      found.levels = sets.at("levels").get<std::vector<double>>();
      if (found.levels.size() != classes) throw std::invalid_argument("it has levels of other classes");
    }
  };
  read_record(folder / "calibrated.json", "rrr-edge calibration", "Run: rrr-edge calibrate BUNDLE PHOTOS", read);
  return found;
}

}  // namespace rrr_edge::detail
