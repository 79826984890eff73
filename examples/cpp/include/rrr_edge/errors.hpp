/// Errors with the names and exit codes of rrr_edge.errors.
#pragma once

#include <stdexcept>
#include <string>

namespace rrr_edge {

/// `what()` says what was wrong, `advice` what to do; `exit_code` is that of the command `rrr-edge`.
struct Error : std::runtime_error {
  Error(const std::string& message, const std::string& what_to_do, int code)
      : std::runtime_error(message), advice(what_to_do), exit_code(code) {}
  std::string advice;
  int exit_code;
};

/// An engine that was not compiled, or arguments that make no sense.
struct UsageError : Error {
  UsageError(const std::string& message, const std::string& what_to_do) : Error(message, what_to_do, 2) {}
};

/// A machine, or its OpenVINO, that does not fit the engine.
struct CannotRunHere : Error {
  CannotRunHere(const std::string& message, const std::string& what_to_do) : Error(message, what_to_do, 4) {}
};

/// What is no bundle or no picture.
struct BadInput : Error {
  BadInput(const std::string& message, const std::string& what_to_do) : Error(message, what_to_do, 5) {}
};

/// A bundle or an engine that is not what was written.
struct CorruptArtifact : BadInput {
  using BadInput::BadInput;
};

}  // namespace rrr_edge
