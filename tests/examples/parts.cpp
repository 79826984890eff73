/// The parts of the C++ example that run no engine, for ctypes.
#include <rrr_edge/classifier.hpp>

extern "C" {

void fit(const std::uint8_t* pixels, int width, int height, int stride, int size, int how, std::uint8_t* out) {
  rrr_edge::fit({pixels, width, height, stride}, size, out, static_cast<rrr_edge::Fit>(how));
}

/// The left, the upper edge, the width and the height of a region of interest, in pixels.
void cut(int width, int height, double x, double y, double across, double down, int* edges) {
  static const std::uint8_t anything = 0;
  const rrr_edge::Frame found = rrr_edge::cut({&anything, width, height}, {x, y, across, down});
  edges[0] = static_cast<int>((found.pixels - &anything) / 3 % width);
  edges[1] = static_cast<int>((found.pixels - &anything) / 3 / width);
  edges[2] = found.width;
  edges[3] = found.height;
}

int cpu_quota(const char* mount) { return rrr_edge::detail::cpu_quota(mount); }

double measure(const char* name, const float* rows, int branches, int classes) {
  std::vector<std::vector<float>> all;
  for (int i = 0; i <= branches; ++i, rows += classes) all.emplace_back(rows, rows + classes);
  const std::vector<float> mean = all.front();
  all.erase(all.begin());
  return rrr_edge::detail::measures(mean, all).at(name);
}
}
