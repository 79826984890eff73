/// The parts of the C++ example that need no library, for ctypes.
#include <rrr_edge/fit.hpp>
#include <rrr_edge/machine.hpp>

extern "C" {

void fit(const std::uint8_t* pixels, int width, int height, int stride, int size, std::uint8_t* out) {
  rrr_edge::fit({pixels, width, height, stride}, size, out);
}

int usable_cores() { return rrr_edge::detail::usable_cores(); }

const char* cpu_name() {
  static const std::string name = rrr_edge::detail::cpu_name();
  return name.c_str();
}
}
