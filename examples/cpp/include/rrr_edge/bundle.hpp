/// Files and sealed records of a bundle, refused where they are not what was written; the cores and name of the CPU.
#pragma once

#include <openssl/evp.h>
#include <sched.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "fit.hpp"  // the errors

namespace rrr_edge::detail {

namespace fs = std::filesystem;
using Json = nlohmann::json;

template <typename Problem = std::runtime_error, typename... Words>
void require(bool holds, const Words&... otherwise) {
  if (!holds) throw Problem(otherwise...);
}

/// `word` as a shell takes it for one, like shlex.quote.
inline std::string quoted(const std::string& word) {
  constexpr const char* kPlain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+=:,./-";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string text = "'";
  for (const char letter : word) text += letter == '\'' ? "'\"'\"'" : std::string(1, letter);
  return text + "'";
}

/// Throws CannotRunHere with what the system says against reading `path`: to write the file anew would not help.
inline void require_readable(bool holds, const fs::path& path, int code) {
  require<CannotRunHere>(holds, path.string() + " cannot be read: " + std::generic_category().message(code) + ".",
                         "Check its name, its permissions and the disk that it is on.");
}

/// Whether there is such a file. Throws CannotRunHere where the system does not tell.
inline bool is_file(const fs::path& path) {
  std::error_code error;
  const fs::file_type type = fs::status(path, error).type();
  require_readable(type != fs::file_type::none, path, error.value());
  return type == fs::file_type::regular;
}

/// Give the file in `path` to `use`, in blocks: (data, bytes). Throws CannotRunHere where it cannot be read.
template <typename Use>
void read_file(const fs::path& path, Use&& use) {
  require(is_file(path), path.filename().string() + " is missing");
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::vector<char> block(1 << 16);
  while (file.read(block.data(), static_cast<std::streamsize>(block.size())), file.gcount()) {
    use(block.data(), static_cast<std::size_t>(file.gcount()));
  }
  require_readable(file.eof(), path, errno ? errno : EIO);
}

/// Hashes what it is called with; `hex` once, after all of it.
struct Sha256 {
  Sha256() { EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr); }
  void operator()(const char* data, std::size_t bytes) { EVP_DigestUpdate(context.get(), data, bytes); }
  std::string hex() {
    unsigned char digest[32];
    EVP_DigestFinal_ex(context.get(), digest, nullptr);
    std::string text;
    for (const int byte : digest) text += {"0123456789abcdef"[byte >> 4], "0123456789abcdef"[byte & 15]};
    return text;
  }
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context{EVP_MD_CTX_new(), EVP_MD_CTX_free};
};

inline std::string file_sha256(const fs::path& path) {
  Sha256 hash;
  read_file(path, hash);
  return hash.hex();
}

/// `record`, if all its keys are known, for another one may change the answers. Old records may have fewer.
inline const Json& known(const Json& record, const std::string& name) {
  static const std::map<std::string, std::string> keys = {
      {"rrr-edge bundle", " seal schema kind name spec labels preprocess recipe cost accuracy provenance verification "
                          "files parent chain "},
      {"preprocess", " image_size mean std fit decoding "},
      {"rrr-edge engine", " seal schema kind target model_sha256 files versions verification precision_found "
                          "verified_by calibration lowering lowering_ratios products pair_times notes search created "
                          "machine "},
      {"target", " name backend device precision lowering threads batch max_batch cpu gpu portability "
                 "optimization_level workspace_mb compute_capabilities quantisation notes "},
      {"quantisation", " ranges bias_correction float_layers float_precision least_share "},
      {"rrr-edge calibration", " seal schema kind bundle engine engine_sha256 photos photos_sha256 images correct "
                               "labels temperature error_before error_after measure rankings promise sets by_class "
                               "notes machine created "},
      {"promise", " max_error confidence threshold photos answered wrong bound "},
      {"sets", " coverage levels own mean_size "}};
  for (const auto& item : record.items()) {
    const std::string& key = item.key();
    require(key.find(' ') == std::string::npos && keys.at(name).find(" " + key + " ") != std::string::npos,
            "this header does not know its key '" + key + "'");
  }
  return record;
}

/// The record of a `kind` in `path`. Its seal is the SHA-256 of the text with zeros in the seal's own place.
inline Json read_record(const fs::path& path, const std::string& kind) {
  std::string text;
  read_file(path, [&](const char* data, std::size_t bytes) { text.append(data, bytes); });
  const Json record = Json::parse(text);
  const int schema = record.at("schema");
  require<CorruptArtifact>(schema == 1, path.string() + " has schema " + std::to_string(schema) + ", not 1.",
                           "Use the header of the rrr-edge that wrote it.");
  require(record.at("kind") == kind, "it is no " + kind);
  const std::string seal = record.at("seal");
  const std::size_t place = text.find(seal);
  require(seal.size() == 64 && place != std::string::npos, "it has no seal");
  text.replace(place, 64, 64, '0');
  Sha256 hash;
  hash(text.data(), text.size());
  require(hash.hex() == seal, "it has changed since it was written");
  return known(record, kind);
}

/// The SHA-256 of the file `name`, which `record` must list once.
inline std::string listed(const Json& record, const std::string& name) {
  std::vector<std::string> found;
  for (const Json& file : record.at("files")) {
    if (file.at("name") == name) found.push_back(file.at("sha256"));
  }
  require(found.size() == 1, name + " is listed " + std::to_string(found.size()) + " times instead of once");
  return found[0];
}

constexpr const char* kCgroups = "/sys/fs/cgroup";

/// The CPU quota of a container in whole cores, at least 1; 0 where there is none. In a container the root of what is
/// mounted is the container's own cgroup; the quotas of cgroups below it, such as a systemd service's, are not read.
inline int cpu_quota(const std::string& mount = kCgroups) {
  double quota = 0, period = 0;
  if (!(std::ifstream(mount + "/cpu.max") >> quota >> period)) {  // version 1 of cgroups has two files
    std::ifstream(mount + "/cpu/cpu.cfs_quota_us") >> quota;
    std::ifstream(mount + "/cpu/cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? std::max(1, static_cast<int>(quota / period)) : 0;
}

/// The smallest of physical cores, CPU affinity and quota; at least 1.
inline int usable_cores(const std::string& mount = kCgroups) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed)) return 1;
  std::set<std::string> cores;  // by the list of the CPUs that share one
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    std::string siblings = std::to_string(cpu);
    std::ifstream("/sys/devices/system/cpu/cpu" + siblings + "/topology/thread_siblings_list") >> siblings;
    cores.insert(siblings);
  }
  const int found = static_cast<int>(cores.size()), quota = cpu_quota(mount);
  return quota ? std::min(found, quota) : found;
}

/// The first of the numbers that is not 0, else all usable cores; never more than these: threads would wait.
inline int threads_to_use(int asked, int of_target, const std::string& mount = kCgroups) {
  require<UsageError>(asked >= 0, "There cannot be " + std::to_string(asked) + " threads.",
                      "Give their number, or 0 for the target's or all usable cores.");
  const int cores = usable_cores(mount), wanted = asked ? asked : of_target;
  return wanted ? std::min(wanted, cores) : cores;
}

/// The model of the CPU; where Linux tells none, as on ARM, the architecture.
inline std::string cpu_name(const std::string& path = "/proc/cpuinfo") {
  utsname system;
  std::string name = uname(&system) ? "unknown" : system.machine;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) name = line.substr(std::min(line.size(), line.find(':') + 2));
  }
  return name;
}

}  // namespace rrr_edge::detail
