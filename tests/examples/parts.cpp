/// The parts of the C++ example that run no engine, for ctypes.
#include <cstring>
#include <rrr_edge/classifier.hpp>

template <typename Call>
int code_of(const Call& call) {
  try {
    call();
  } catch (const rrr_edge::Error& error) {
    return error.exit_code;
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}

extern "C" {

void fit(const std::uint8_t* pixels, int width, int height, int stride, int size, int how, std::uint8_t* out) {
  rrr_edge::fit({pixels, width, height, stride}, size, out, static_cast<rrr_edge::Fit>(how));
}

/// The left, the upper edge, the width and the height of a region of interest, in pixels; returns the exit code.
int cut(int width, int height, double x, double y, double across, double down, int* edges) {
  static const std::uint8_t anything = 0;
  rrr_edge::Region region;
  region.x = x;
  region.y = y;
  region.width = across;
  region.height = down;
  return code_of([&] {
    const rrr_edge::Frame found = rrr_edge::cut({&anything, width, height}, region);
    edges[0] = static_cast<int>((found.pixels - &anything) / 3 % width);
    edges[1] = static_cast<int>((found.pixels - &anything) / 3 / width);
    edges[2] = found.width;
    edges[3] = found.height;
  });
}

int usable_cores(const char* mount) { return rrr_edge::detail::usable_cores(mount); }

/// The number, or minus the exit code.
int threads_to_use(int asked, int of_target, const char* mount) {
  int found = 0;
  const int code = code_of([&] { found = rrr_edge::detail::threads_to_use(asked, of_target, mount); });
  return code ? -code : found;
}

void cpu_name(const char* path, char* out) { std::strcpy(out, rrr_edge::detail::cpu_name(path).c_str()); }

void quoted(const char* word, char* out) { std::strcpy(out, rrr_edge::detail::quoted(word).c_str()); }

/// 64 digits; returns the exit code.
int file_sha256(const char* path, char* out) {
  return code_of([&] { std::strcpy(out, rrr_edge::detail::file_sha256(path).c_str()); });
}

double measure(const char* name, const float* rows, int branches, int classes) {
  std::vector<std::vector<float>> all;
  for (int i = 0; i <= branches; ++i, rows += classes) all.emplace_back(rows, rows + classes);
  const std::vector<float> mean = all.front();
  all.erase(all.begin());
  return rrr_edge::detail::measures(mean, all).at(name);
}
}
