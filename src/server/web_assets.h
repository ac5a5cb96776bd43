// The files of web/, as they were when the program was built.
#pragma once

#include <span>
#include <string_view>

namespace fathom::server {

struct WebAsset {
  std::string_view name;  // "index.html"
  std::string_view content_type;
  std::string_view etag;  // of the content, quotes included
  std::string_view bytes;
};

// All files, sorted by name. Defined in a file that the build generates (cmake/web_assets.cmake).
std::span<const WebAsset> web_assets();

}  // namespace fathom::server
