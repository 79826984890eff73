/// The cores that may really be used, and the processor's name, as in rrr_edge's own judgement of a machine.
#pragma once

#include <sched.h>
#include <sys/utsname.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

namespace rrr_edge::detail {

inline std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// The smallest of physical cores, CPU affinity and the cgroup's quota; at least 1.
inline int usable_cores() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed)) return 1;
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const std::string number = std::to_string(cpu);
    const std::string siblings = first_line("/sys/devices/system/cpu/cpu" + number + "/topology/thread_siblings_list");
    cores.insert(siblings.empty() ? number : siblings);
  }
  const std::string cgroup = "/sys/fs/cgroup/";
  std::string limit = first_line(cgroup + "cpu.max");  // "QUOTA PERIOD", or "max PERIOD"
  if (limit.empty()) {
    limit = first_line(cgroup + "cpu/cpu.cfs_quota_us") + ' ' + first_line(cgroup + "cpu/cpu.cfs_period_us");
  }
  std::istringstream numbers(limit);
  double quota = 0, period = 0;
  const int found = static_cast<int>(cores.size());
  if (!(numbers >> quota >> period) || quota <= 0 || period <= 0) return std::max(1, found);
  return std::max(1, std::min(found, static_cast<int>(quota / period)));
}

/// The processor's model; where Linux tells none, the architecture.
inline std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(std::min(line.size(), line.find(':') + 2));
  }
  utsname system;
  return uname(&system) ? "unknown" : system.machine;
}

}  // namespace rrr_edge::detail
