/// Crop, squash or pad to the network's square input: the pixels of rrr_edge.images.fit. Needs no library.
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

/// How a frame becomes square: its centre, all of it out of proportion, or all of it on gray.
enum class Fit { crop, squash, pad };

/// A region of interest in shares of the frame: its left and upper edge, its width and height.
struct Region {
  double x = 0, y = 0, width = 1, height = 1;
};

namespace detail {

/// Part of an image of RGB bytes that is written.
struct Canvas {
  std::uint8_t* pixels;
  int width, height;
  std::ptrdiff_t stride;
};

/// How many pixels a box has along a side, ceil(before / after), and where each begins, evenly spread.
struct Boxes {
  Boxes(int before, int after) : length((before + after - 1) / after), starts(after) {
    const double step = static_cast<double>(before - length) / std::max(after - 1, 1);
    for (int i = 0; i < after; ++i) starts[i] = static_cast<std::ptrdiff_t>(std::nearbyint(i * step));
  }
  int length;
  std::vector<std::ptrdiff_t> starts;
};

/// Means over boxes of pixels. `Sum` holds the sum over a box and the half that rounds it.
template <typename Sum>
void average(const Frame& picture, const Boxes& down, const Boxes& across, const Canvas& out) {
  const std::uint64_t count = static_cast<std::uint64_t>(down.length) * across.length;
  // As long as count < 2^24 this gives the same quotients as a division, which is much slower.
  const std::uint64_t reciprocal = (std::uint64_t{1} << 56) / count + 1;
  const std::size_t length = 3 * static_cast<std::size_t>(across.length);
  std::vector<Sum> columns(3 * static_cast<std::size_t>(picture.width)), boxes(columns.size() - length + 3);
  for (int i = 0; i < out.height; ++i) {
    const std::uint8_t* row = picture.pixels + down.starts[i] * picture.stride;
    std::copy_n(row, columns.size(), columns.begin());
    for (int y = 1; y < down.length; ++y) {
      row += picture.stride;
      for (std::size_t x = 0; x < columns.size(); ++x) columns[x] = static_cast<Sum>(columns[x] + row[x]);
    }
    std::fill(boxes.begin(), boxes.end(), static_cast<Sum>(count / 2));
    for (std::size_t shift = 0; shift < length; shift += 3) {
      for (std::size_t x = 0; x < boxes.size(); ++x) boxes[x] = static_cast<Sum>(boxes[x] + columns[x + shift]);
    }
    std::uint8_t* next = out.pixels + i * out.stride;
    for (const std::ptrdiff_t left : across.starts) {
      for (std::ptrdiff_t x = 3 * left; x < 3 * left + 3; ++x) {
        *next++ = static_cast<std::uint8_t>(boxes[x] * reciprocal >> 56);
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
inline std::vector<Taps> bilinear_taps(int before, int after) {
  const double scale = static_cast<double>(before) / after, reach = std::max(scale, 1.0), slope = 1.0 / reach;
  std::vector<Taps> taps(after);
  for (int i = 0; i < after; ++i) {
    const double centre = (i + 0.5) * scale;
    taps[i].first = std::max(0, static_cast<int>(centre - reach + 0.5));
    std::vector<double> triangle;
    for (int x = taps[i].first; x < std::min(before, static_cast<int>(centre + reach + 0.5)); ++x) {
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

inline std::uint8_t to_byte(int sum) { return static_cast<std::uint8_t>(std::min(sum >> kFractionBits, 255)); }

inline void interpolate(const Frame& picture, const Canvas& out) {
  constexpr int kHalf = 1 << (kFractionBits - 1);
  const std::size_t width = 3 * static_cast<std::size_t>(out.width);
  const std::vector<Taps> across = bilinear_taps(picture.width, out.width);
  std::vector<std::uint8_t> narrow;  // the rows of the picture with the width of the result
  narrow.reserve(width * picture.height);
  for (int y = 0; y < picture.height; ++y) {
    for (const Taps& taps : across) {
      const std::uint8_t* pixel = picture.pixels + y * picture.stride + std::ptrdiff_t{3} * taps.first;
      int red = kHalf, green = kHalf, blue = kHalf;
      for (const int weight : taps.weights) {
        red += weight * pixel[0];
        green += weight * pixel[1];
        blue += weight * pixel[2];
        pixel += 3;
      }
      narrow.insert(narrow.end(), {to_byte(red), to_byte(green), to_byte(blue)});
    }
  }
  std::vector<int> sums(width);
  std::uint8_t* next = out.pixels;
  for (const Taps& taps : bilinear_taps(picture.height, out.height)) {
    std::fill(sums.begin(), sums.end(), kHalf);
    const std::uint8_t* row = narrow.data() + taps.first * width;
    for (const int weight : taps.weights) {
      for (std::size_t x = 0; x < width; ++x) sums[x] += weight * row[x];
      row += width;
    }
    std::transform(sums.begin(), sums.end(), next, to_byte);
    next += out.stride;
  }
}

inline void resize(const Frame& picture, const Canvas& out) {
  if (picture.width == out.width && picture.height == out.height) {
    for (int y = 0; y < out.height; ++y) {
      std::copy_n(picture.pixels + y * picture.stride, std::ptrdiff_t{3} * out.width, out.pixels + y * out.stride);
    }
    return;
  }
  if (picture.width < 2 * out.width || picture.height < 2 * out.height) return interpolate(picture, out);
  const Boxes down(picture.height, out.height), across(picture.width, out.width);
  const std::int64_t count = std::int64_t{down.length} * across.length;
  if (count <= 256) return average<std::uint16_t>(picture, down, across, out);
  if (count < 1 << 24) return average<std::uint32_t>(picture, down, across, out);
  throw BadInput("The frame is too large for the network's input.", "Reduce it first.");
}

/// The first pixel and the number of pixels of a share of a side, edges rounded to the nearest pixel; one at least.
struct Range {
  Range(double start, double share, int pixels)
      : first(std::min(static_cast<int>(start * pixels + 0.5), pixels - 1)),
        count(std::max(1, std::min(static_cast<int>((start + share) * pixels + 0.5), pixels) - first)) {}
  int first, count;
};

}  // namespace detail

/// Throws UsageError unless `region` is inside the frame.
inline void require_region(const Region& region) {
  constexpr double kEnd = 1 + 1e-9;  // shares such as 0.58 + 0.42 may add up to a little more than 1
  if (region.x >= 0 && region.y >= 0 && region.width > 0 && region.height > 0 && region.x + region.width <= kEnd &&
      region.y + region.height <= kEnd) {
    return;
  }
  throw UsageError("The region of interest is not inside the frame.",
                   "x, y, width and height are shares of the frame: x + width and y + height reach 1 at most.");
}

/// The view of `frame` within `region`. Throws BadInput where `frame` is no picture, and UsageError.
inline Frame cut(const Frame& frame, const Region& region) {
  const std::ptrdiff_t row = std::ptrdiff_t{3} * frame.width, stride = frame.stride ? frame.stride : row;
  if (!frame.pixels || frame.width < 1 || frame.height < 1 || stride < row) {
    throw BadInput("A frame of " + std::to_string(frame.width) + "x" + std::to_string(frame.height) +
                       " pixels with rows of " + std::to_string(stride) + " bytes is not a picture.",
                   "Pass RGB bytes, three for each pixel.");
  }
  require_region(region);
  const detail::Range columns(region.x, region.width, frame.width), rows(region.y, region.height, frame.height);
  return {frame.pixels + rows.first * stride + std::ptrdiff_t{3} * columns.first, columns.count, rows.count, stride};
}

/// Make `frame` a square of `size` pixels: 3 * size * size bytes go to `out`. Throws BadInput.
inline void fit(const Frame& frame, int size, std::uint8_t* out, Fit how = Fit::crop) {
  const Frame whole = cut(frame, {});
  const std::ptrdiff_t stride = std::ptrdiff_t{3} * size;
  const int shorter = std::min(whole.width, whole.height), longer = std::max(whole.width, whole.height);
  if (how == Fit::squash) {
    detail::resize(whole, {out, size, size, stride});
  } else if (how == Fit::crop) {
    const std::ptrdiff_t top = (whole.height - shorter) / 2, left = (whole.width - shorter) / 2;
    detail::resize({whole.pixels + top * whole.stride + 3 * left, shorter, shorter, whole.stride},
                   {out, size, size, stride});
  } else {
    const auto scaled = [size, longer](std::int64_t side) {
      return static_cast<int>(std::max<std::int64_t>(1, (2 * side * size + longer) / (2 * longer)));
    };
    const int width = scaled(whole.width), height = scaled(whole.height);
    std::fill_n(out, stride * size, std::uint8_t{114});  // the mean gray of ImageNet's photos
    std::uint8_t* corner = out + (size - height) / 2 * stride + (size - width) / 2 * 3;
    detail::resize(whole, {corner, width, height, stride});
  }
}

}  // namespace rrr_edge
