/// Crop and resize to the network's input: the pixels of rrr_edge.images.fit. Needs no library.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "errors.hpp"

namespace rrr_edge {

/// A view of a picture: rows of RGB bytes, each `stride` bytes after the one above it (0: 3 * width).
struct Frame {
  const std::uint8_t* pixels = nullptr;
  int width = 0, height = 0;
  std::ptrdiff_t stride = 0;
};

namespace detail {

/// Means over boxes of k x k pixels, k = ceil(side / size), their corners spread evenly over the square.
/// `Sum` holds the sum over a box and the half that rounds it.
template <typename Sum>
void average_boxes(const Frame& square, int size, std::uint8_t* out) {
  const int side = square.width, k = (side + size - 1) / size;
  const double step = static_cast<double>(side - k) / std::max(size - 1, 1);
  std::vector<std::ptrdiff_t> corners(size);
  for (int i = 0; i < size; ++i) corners[i] = static_cast<std::ptrdiff_t>(std::nearbyint(i * step));
  const std::uint64_t count = static_cast<std::uint64_t>(k) * k;
  // As long as count < 2^24 this gives the same quotients as a division, which is much slower.
  const std::uint64_t reciprocal = (std::uint64_t{1} << 56) / count + 1;
  std::vector<Sum> columns(3 * static_cast<std::size_t>(side)), boxes(columns.size() - 3 * (k - 1));
  for (const std::ptrdiff_t top : corners) {
    const std::uint8_t* row = square.pixels + top * square.stride;
    std::copy_n(row, columns.size(), columns.begin());
    for (int y = 1; y < k; ++y) {
      row += square.stride;
      for (std::size_t x = 0; x < columns.size(); ++x) columns[x] = static_cast<Sum>(columns[x] + row[x]);
    }
    std::fill(boxes.begin(), boxes.end(), static_cast<Sum>(count / 2));
    for (std::size_t shift = 0; shift < 3 * static_cast<std::size_t>(k); shift += 3) {
      for (std::size_t x = 0; x < boxes.size(); ++x) boxes[x] = static_cast<Sum>(boxes[x] + columns[x + shift]);
    }
    for (const std::ptrdiff_t left : corners) {
      for (std::ptrdiff_t x = 3 * left; x < 3 * left + 3; ++x) {
        *out++ = static_cast<std::uint8_t>(boxes[x] * reciprocal >> 56);
      }
    }
  }
}

/// Of one pixel of a resized row or column: where the pixels begin that it is made of, and their fixed-point weights.
struct Taps {
  int first;
  std::vector<int> weights;
};
constexpr int kFractionBits = 22;

/// Pillow's antialiased bilinear filter: triangles whose width grows with the reduction.
inline std::vector<Taps> bilinear_taps(int side, int size) {
  const double scale = static_cast<double>(side) / size, reach = std::max(scale, 1.0), slope = 1.0 / reach;
  std::vector<Taps> taps(size);
  for (int i = 0; i < size; ++i) {
    const double centre = (i + 0.5) * scale;
    taps[i].first = std::max(0, static_cast<int>(centre - reach + 0.5));
    std::vector<double> triangle;
    for (int x = taps[i].first; x < std::min(side, static_cast<int>(centre + reach + 0.5)); ++x) {
      triangle.push_back(std::max(0.0, 1.0 - std::abs((x - centre + 0.5) * slope)));
    }
    double sum = 0;
    for (const double weight : triangle) sum += weight;
    for (const double weight : triangle) {
      taps[i].weights.push_back(static_cast<int>(0.5 + weight / sum * (1 << kFractionBits)));
    }
  }
  return taps;
}

/// The weighted sum of bytes that lie `step` apart.
inline std::uint8_t weigh(const Taps& taps, const std::uint8_t* bytes, std::ptrdiff_t step) {
  int sum = 1 << (kFractionBits - 1);
  bytes += taps.first * step;
  for (std::size_t i = 0; i < taps.weights.size(); ++i, bytes += step) sum += taps.weights[i] * *bytes;
  return static_cast<std::uint8_t>(std::min(sum >> kFractionBits, 255));
}

inline void resize_bilinear(const Frame& square, int size, std::uint8_t* out) {
  const std::vector<Taps> taps = bilinear_taps(square.width, size);
  const std::ptrdiff_t width = 3 * size;
  std::vector<std::uint8_t> narrow;
  narrow.reserve(static_cast<std::size_t>(width) * square.height);
  for (int y = 0; y < square.height; ++y) {
    const std::uint8_t* row = square.pixels + y * square.stride;
    for (const Taps& column : taps) {
      for (int channel = 0; channel < 3; ++channel) narrow.push_back(weigh(column, row + channel, 3));
    }
  }
  for (const Taps& row : taps) {
    for (int x = 0; x < width; ++x) *out++ = weigh(row, narrow.data() + x, width);
  }
}

}  // namespace detail

/// Crop the centre square out of `frame` and resize it, as rrr_edge.images.fit: 3 * size * size bytes go to `out`.
/// Throws BadInput.
inline void fit(const Frame& frame, int size, std::uint8_t* out) {
  const std::ptrdiff_t row = std::ptrdiff_t{3} * frame.width, stride = frame.stride ? frame.stride : row;
  if (!frame.pixels || frame.width < 1 || frame.height < 1 || stride < row) {
    throw BadInput("A frame of " + std::to_string(frame.width) + "x" + std::to_string(frame.height) +
                       " pixels with rows of " + std::to_string(stride) + " bytes is not a picture.",
                   "Pass RGB bytes, three for each pixel.");
  }
  const int side = std::min(frame.width, frame.height);
  const std::ptrdiff_t top = (frame.height - side) / 2, left = (frame.width - side) / 2;
  const Frame square{frame.pixels + top * stride + 3 * left, side, side, stride};
  if (side == size) {
    for (int y = 0; y < side; ++y) out = std::copy_n(square.pixels + y * stride, 3 * side, out);
  } else if (side < 2 * size) {
    detail::resize_bilinear(square, size, out);
  } else if (side > 4095 * size) {
    throw BadInput("A frame of " + std::to_string(side) + " pixels is too large.", "Reduce it first.");
  } else if (side <= 16 * size) {  // 65535 holds the sum over 16 x 16 pixels, and its half
    detail::average_boxes<std::uint16_t>(square, size, out);
  } else {
    detail::average_boxes<std::uint32_t>(square, size, out);
  }
}

}  // namespace rrr_edge
