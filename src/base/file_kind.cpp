#include "base/file_kind.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"

namespace fathom {
namespace {

constexpr std::string_view kUtf8Mark = "\xEF\xBB\xBF";

// Whether `text` begins with `lower`, whatever the case of its letters.
bool begins_with(std::string_view text, std::string_view lower) {
  return text.size() >= lower.size() &&
         std::equal(lower.begin(), lower.end(), text.begin(), [](char l, char t) {
           return l == static_cast<char>(std::tolower(static_cast<unsigned char>(t)));
         });
}

std::string_view without_white_space(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  return first == text.npos ? std::string_view() : text.substr(first);
}

}  // namespace

std::string unexpected_file_kind(std::string_view bytes) {
  if (bytes.empty()) return "empty, 0 bytes (a download that did not finish?)";
  if (bytes.starts_with(kUtf8Mark)) bytes.remove_prefix(kUtf8Mark.size());
  if (bytes.starts_with("version https://git-lfs.github.com/spec/"))
    return "a Git LFS pointer, not the file itself (git lfs pull fetches it)";
  const std::string_view text = without_white_space(bytes.substr(0, 1024));
  if (begins_with(text, "<!doctype") || begins_with(text, "<html"))
    return "an HTML page (a download that was answered with a page, perhaps one to log in?)";
  if (begins_with(text, "<?xml"))
    return "an XML document (a download that was answered with an error?)";
  const auto starts = [&](std::string_view magic) { return bytes.starts_with(magic); };
  if (starts("PK\x03\x04")) return "a ZIP archive (PyTorch's own format? safetensors is expected)";
  if (starts("GGUF")) return "a GGUF file (safetensors is expected)";
  if (starts("\x1F\x8B") || starts("\x28\xB5\x2F\xFD") || starts("\xFD\x37zXZ"))
    return "a compressed file (unpack it first)";
  return {};
}

std::string_view without_byte_order_mark(std::string_view text, std::string_view origin) {
  using namespace std::string_view_literals;
  if (text.starts_with(kUtf8Mark)) return text.substr(kUtf8Mark.size());
  if (text.starts_with("\xFF\xFE\0\0"sv) || text.starts_with("\0\0\xFE\xFF"sv))
    fail("{}: the text is UTF-32, expected UTF-8", origin);
  if (text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF"))
    fail("{}: the text is UTF-16, expected UTF-8 (an editor saves it so when asked)", origin);
  return text;
}

}  // namespace fathom
