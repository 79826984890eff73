/// rrr_edge::fit for ctypes.
#include <rrr_edge/fit.hpp>

extern "C" void fit(const std::uint8_t* pixels, int width, int height, int stride, int size, std::uint8_t* out) {
  rrr_edge::fit({pixels, width, height, stride}, size, out);
}
