/// Sealed records and files of a bundle, refused where they are not what was written.
#pragma once

#include <openssl/evp.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "errors.hpp"

namespace rrr_edge::detail {

namespace fs = std::filesystem;
using Json = nlohmann::json;

inline std::string sha256(std::istream&& data) {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr);
  std::vector<char> block(1 << 16);
  while (data.read(block.data(), static_cast<std::streamsize>(block.size())), data.gcount()) {
    EVP_DigestUpdate(context.get(), block.data(), static_cast<std::size_t>(data.gcount()));
  }
  unsigned char digest[32];
  EVP_DigestFinal_ex(context.get(), digest, nullptr);
  std::string hex;
  for (const int byte : digest) hex += {"0123456789abcdef"[byte >> 4], "0123456789abcdef"[byte & 15]};
  return hex;
}

/// Whether `seal` is the SHA-256 of `text` with zeros in the seal's own place.
inline bool is_sealed(std::string text, const std::string& seal) {
  const std::string zeros(64, '0');
  const std::size_t place = text.find(seal);
  if (place == std::string::npos || seal.size() != zeros.size()) return false;
  text.replace(place, seal.size(), zeros);
  return text.find(zeros) == place && sha256(std::istringstream(text)) == seal;
}

/// A key that is not known here may change the answers: it is refused, as in Python.
inline void require_known(const Json& record, const std::set<std::string>& keys) {
  for (const auto& [key, value] : record.items()) {
    if (!keys.count(key)) throw std::invalid_argument("this header does not know its key '" + key + "'");
  }
}

/// Let `read` take what it needs from the sealed record of a `kind` in `path`. Throws CorruptArtifact with `repair`.
template <typename Read>
void read_record(const fs::path& path, const std::string& kind, const std::string& repair, const Read& read) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  try {
    const Json record = Json::parse(text);
    if (const int schema = record.at("schema"); schema > 1) {
      throw CorruptArtifact(path.string() + " has schema " + std::to_string(schema) + "; this header reads up to 1.",
                            "Use the header of the rrr-edge that wrote it.");
    }
    if (record.at("kind") != kind) throw std::invalid_argument("it is no " + kind);
    if (!is_sealed(text, record.at("seal"))) throw std::invalid_argument("it has changed since it was written");
    read(record);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    std::string reason = error.what();
    if (reason[0] == '[') reason.erase(0, reason.find(' ') + 1);  // nlohmann-json's number of the error
    throw CorruptArtifact(path.string() + " cannot be used: " + reason + ".", repair);
  }
}

/// Throws CorruptArtifact unless `path` is, byte for byte, what `entry` says.
inline void check_file(const fs::path& path, const Json& entry, const std::string& repair) {
  if (!fs::is_regular_file(path)) throw CorruptArtifact(path.string() + " is missing.", repair);
  if (fs::file_size(path) != entry.at("bytes") || sha256(std::ifstream(path, std::ios::binary)) != entry.at("sha256")) {
    throw CorruptArtifact(path.string() + " has changed since it was written.", repair);
  }
}

}  // namespace rrr_edge::detail
