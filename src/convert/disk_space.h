#pragma once

#include <cstdint>
#include <string>

namespace fathom {

// Throws Error if the disk of `folder` (which need not exist yet) has less than `needed` bytes free
// for this user.
void check_disk_space(const std::string& folder, uint64_t needed);

}  // namespace fathom
