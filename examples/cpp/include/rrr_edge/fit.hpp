/// Crop, squash or pad to the network's square input: the pixels of rrr_edge.images.fit. Needs no library.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace rrr_edge {

/// `what()` says what was wrong, `advice` what to do; `exit_code` is that of the command `rrr-edge`.
struct Error : std::runtime_error {
  Error(const std::string& message, const std::string& what_to_do, int code)
      : std::runtime_error(message), advice(what_to_do), exit_code(code) {}
  std::string advice;
  int exit_code;
};
template <int code>
struct ErrorOf : Error {
  ErrorOf(const std::string& message, const std::string& what_to_do) : Error(message, what_to_do, code) {}
};
using UsageError = ErrorOf<2>;       // an engine that was not compiled, or arguments that make no sense
using GateFailed = ErrorOf<3>;       // an engine that answers with what is no probability
using CannotRunHere = ErrorOf<4>;    // a machine, or its OpenVINO, that does not fit the engine, or fails
using BadInput = ErrorOf<5>;         // what is no bundle or no picture
struct CorruptArtifact : BadInput {  // a bundle or an engine that is not what was written
  using BadInput::BadInput;
};

/// A view of a picture: rows of RGB bytes, each `stride` bytes after the one above it (0: 3 * width).
struct Frame {
  const std::uint8_t* pixels = nullptr;
  int width = 0, height = 0;
  std::ptrdiff_t stride = 0;
};

/// How a frame becomes square: its centre, all of it out of proportion, or all of it on gray.
enum class Fit { crop, squash, pad };

/// A region of interest in shares of the frame: its left and upper edge, its width and height.
struct Region {
  double x = 0, y = 0, width = 1, height = 1;
};

/// Throws UsageError where `region` is not inside the frame, or holds what is no number.
inline void require_inside(const Region& region) {
  const auto [x, y, width, height] = region;
  constexpr double kEnd = 1 + 1e-9;  // shares such as 0.58 + 0.42 may add up to a little more than 1
  if (x >= 0 && y >= 0 && width > 0 && height > 0 && x + width <= kEnd && y + height <= kEnd) return;
  throw UsageError("The region of interest is not inside the frame.",
                   "x, y, width and height are shares of the frame: x + width and y + height reach 1 at most.");
}

namespace detail {

/// Means over boxes of pixels. `Sum` holds the sum over a column of a box.
template <typename Sum>
void average(const Frame& picture, int width, int height, std::uint8_t* out, std::ptrdiff_t stride) {
  const auto boxes = [](int before, int after) {  // how long they are, and where each begins, evenly spread
    const int length = (before - 1) / after + 1;
    const double step = static_cast<double>(before - length) / std::max(after - 1, 1);
    std::vector<std::ptrdiff_t> starts(after);
    for (int i = 0; i < after; ++i) starts[i] = static_cast<std::ptrdiff_t>(std::nearbyint(i * step));
    return std::pair(length, starts);
  };
  const auto [tall, tops] = boxes(picture.height, height);
  const auto [wide, lefts] = boxes(picture.width, width);
  const std::int64_t count = std::int64_t{tall} * wide;
  const std::int64_t half = count / 2;
  const double share = 1.0 / static_cast<double>(count);  // times sum + 0.5 it cannot miss the integer sum / count
  std::vector<Sum> columns(3 * static_cast<std::size_t>(picture.width));
  for (const std::ptrdiff_t top : tops) {
    const std::uint8_t* row = picture.pixels + top * picture.stride;
    std::copy_n(row, columns.size(), columns.begin());
    for (int y = 1; y < tall; ++y) {
      row += picture.stride;
      for (std::size_t x = 0; x < columns.size(); ++x) columns[x] = static_cast<Sum>(columns[x] + row[x]);
    }
    std::uint8_t* next = out;
    for (const std::ptrdiff_t left : lefts) {
      const Sum* pixel = &columns[3 * left];
      std::int64_t sums[3] = {half, half, half};
      for (int x = 0; x < wide; ++x) {
        for (std::int64_t& channel : sums) channel += *pixel++;
      }
      for (const std::int64_t channel : sums) *next++ = static_cast<std::uint8_t>((channel + 0.5) * share);
    }
    out += stride;
  }
}

/// Pillow's antialiased bilinear filter along the rows, which become `count` columns: rows of `out`.
inline void interpolate(const Frame& picture, int count, std::uint8_t* out, std::ptrdiff_t stride) {
  constexpr int kBits = 22, kHalf = 1 << (kBits - 1);  // of the weights' fractions
  const double scale = static_cast<double>(picture.width) / count, reach = std::max(scale, 1.0), slope = 1 / reach;
  for (int i = 0; i < count; ++i, out += stride) {
    const double centre = (i + 0.5) * scale;
    const int first = std::max(0, static_cast<int>(centre - reach + 0.5));
    const int last = std::min(picture.width, static_cast<int>(centre + reach + 0.5));
    const auto triangle = [&](int x) { return std::max(0.0, 1.0 - std::abs((x - centre + 0.5) * slope)); };
    double sum = 0;
    for (int x = first; x < last; ++x) sum += triangle(x);
    std::vector<int> weights;
    for (int x = first; x < last; ++x) weights.push_back(static_cast<int>(0.5 + triangle(x) / sum * (1 << kBits)));
    std::uint8_t* next = out;
    for (int y = 0; y < picture.height; ++y) {
      const std::uint8_t* pixel = picture.pixels + y * picture.stride + std::ptrdiff_t{3} * first;
      int sums[3] = {kHalf, kHalf, kHalf};
      for (const int weight : weights) {
        for (int& channel : sums) channel += weight * *pixel++;
      }
      for (const int channel : sums) *next++ = static_cast<std::uint8_t>(std::min(channel >> kBits, 255));
    }
  }
}

inline void resize(const Frame& picture, int width, int height, std::uint8_t* out, std::ptrdiff_t stride) {
  if (picture.width == width && picture.height == height) {
    for (int y = 0; y < height; ++y) {
      std::copy_n(picture.pixels + y * picture.stride, std::ptrdiff_t{3} * width, out + y * stride);
    }
    return;
  }
  if (picture.width >= 2 * width && picture.height >= 2 * height) {
    const bool is_low = picture.height <= 256 * height;  // a column of 256 bytes adds up to less than 2^16
    return (is_low ? average<std::uint16_t> : average<std::uint32_t>)(picture, width, height, out, stride);
  }
  const std::ptrdiff_t column = std::ptrdiff_t{3} * picture.height;
  std::vector<std::uint8_t> turned(column * width);
  interpolate(picture, width, turned.data(), column);
  interpolate({turned.data(), picture.height, width, column}, height, out, stride);
}

}  // namespace detail

/// The view of `frame` within `region`, to the nearest pixels. Throws BadInput where `frame` is no picture, UsageError.
inline Frame cut(const Frame& frame, const Region& region) {
  require_inside(region);
  const std::ptrdiff_t row = std::ptrdiff_t{3} * frame.width, stride = frame.stride ? frame.stride : row;
  if (!frame.pixels || frame.width < 1 || frame.height < 1 || stride < row) {
    throw BadInput("A frame of " + std::to_string(frame.width) + "x" + std::to_string(frame.height) +
                       " pixels with rows of " + std::to_string(stride) + " bytes is not a picture.",
                   "Pass RGB bytes, three for each pixel.");
  }
  const auto range = [](int pixels, double start, double share) {  // the first pixel, and how many; one at least
    const int first = std::min(static_cast<int>(start * pixels + 0.5), pixels - 1);
    return std::pair(first, std::max(1, std::min(static_cast<int>((start + share) * pixels + 0.5), pixels) - first));
  };
  const auto [left, width] = range(frame.width, region.x, region.width);
  const auto [top, height] = range(frame.height, region.y, region.height);
  return {frame.pixels + top * stride + std::ptrdiff_t{3} * left, width, height, stride};
}

/// Make `frame` a square of `size` pixels: 3 * size * size bytes go to `out`. Throws BadInput.
inline void fit(const Frame& frame, int size, std::uint8_t* out, Fit how = Fit::crop) {
  Frame picture = cut(frame, {});
  const std::ptrdiff_t stride = std::ptrdiff_t{3} * size;
  int width = size, height = size;
  if (how == Fit::crop) {
    const int side = std::min(picture.width, picture.height);
    picture.pixels += (picture.height - side) / 2 * picture.stride + (picture.width - side) / 2 * std::ptrdiff_t{3};
    picture.width = picture.height = side;
  } else if (how == Fit::pad) {
    const std::int64_t longer = std::max(picture.width, picture.height);
    const auto scaled = [&](std::int64_t side) { return static_cast<int>((2 * side * size + longer) / (2 * longer)); };
    width = std::max(1, scaled(picture.width));
    height = std::max(1, scaled(picture.height));
    std::fill_n(out, stride * size, std::uint8_t{114});  // the mean gray of ImageNet's photos
  }
  detail::resize(picture, width, height, out + (size - height) / 2 * stride + (size - width) / 2 * 3, stride);
}

}  // namespace rrr_edge
