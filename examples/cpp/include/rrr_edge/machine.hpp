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

/// The smallest CPU quota of this process's cgroup and of its parents, of both versions, in cores; 0 where none is set.
inline double cpu_quota(const std::string& mount = "/sys/fs/cgroup",
                        const std::string& membership = "/proc/self/cgroup") {
  double least = 0;
  const auto look = [&least](const std::string& root, std::string path) {
    for (;; path.erase(path.rfind('/'))) {
      std::string limit = first_line(root + path + "/cpu.max");  // "QUOTA PERIOD", or "max PERIOD"
      if (limit.empty()) {
        limit = first_line(root + path + "/cpu.cfs_quota_us") + ' ' + first_line(root + path + "/cpu.cfs_period_us");
      }
      double quota = 0, period = 0;
      if (std::istringstream(limit) >> quota >> period && quota > 0 && period > 0) {
        least = least > 0 ? std::min(least, quota / period) : quota / period;
      }
      if (path.find('/') == std::string::npos) return;
    }
  };
  // In a container the root of what is mounted is its own cgroup, whatever the membership calls it.
  look(mount, "");
  look(mount + "/cpu", "");
  std::ifstream rows(membership);
  for (std::string row; std::getline(rows, row);) {  // ID:CONTROLLERS:/PATH
    const std::size_t first = row.find(':'), second = row.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = row.substr(first + 1, second - first - 1);
    const std::string path = row.substr(second + 1, row.find_last_not_of('/') - second);
    const bool of_version_2 = controllers.empty();
    if (!of_version_2 && (',' + controllers + ',').find(",cpu,") == std::string::npos) continue;
    look(mount + (of_version_2 ? "" : "/cpu"), path);
    look(mount + '/' + (of_version_2 ? "unified" : controllers), path);
  }
  return least;
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
  const int found = std::max<int>(1, static_cast<int>(cores.size()));
  const double quota = cpu_quota();
  return quota > 0 ? std::max(1, std::min(found, static_cast<int>(quota))) : found;
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
