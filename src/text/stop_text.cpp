#include "text/stop_text.h"

#include <algorithm>
#include <utility>

namespace fathom {

StopText::StopText(std::vector<std::string> stops) {
  for (std::string& stop : stops) {
    if (stop.empty()) continue;
    Needle needle;
    needle.fallback.assign(stop.size(), 0);
    for (size_t i = 1, k = 0; i < stop.size(); ++i) {
      while (k > 0 && stop[i] != stop[k]) k = needle.fallback[k - 1];
      if (stop[i] == stop[k]) ++k;
      needle.fallback[i] = k;
    }
    needle.text = std::move(stop);
    needles_.push_back(std::move(needle));
  }
}

// True when the needle is complete.
bool StopText::advance(Needle& needle, char c) {
  while (needle.matched > 0 && needle.text[needle.matched] != c)
    needle.matched = needle.fallback[needle.matched - 1];
  if (needle.text[needle.matched] == c) ++needle.matched;
  return needle.matched == needle.text.size();
}

bool StopText::feed(std::string_view text, std::string& out) {
  if (found()) {
    dropped_ += text.size();
    return true;
  }
  if (needles_.empty()) {
    out += text;
    return false;
  }
  for (size_t i = 0; i < text.size(); ++i) {
    for (size_t n = 0; n < needles_.size(); ++n) {
      if (!advance(needles_[n], text[i])) continue;
      const auto size = [&](int which) { return needles_[static_cast<size_t>(which)].text.size(); };
      const int which = static_cast<int>(n);
      if (!found() || size(which) > size(found_)) found_ = which;
    }
    if (!found()) continue;
    // The stop text may have begun in what was held back, never before it.
    held_ += text.substr(0, i + 1);
    const size_t keep = held_.size() - found_text().size();
    out.append(held_, 0, keep);
    dropped_ = found_text().size() + text.size() - (i + 1);
    held_.clear();
    return true;
  }
  size_t hold = 0;
  for (const Needle& needle : needles_) hold = std::max(hold, needle.matched);
  held_ += text;
  out.append(held_, 0, held_.size() - hold);
  held_.erase(0, held_.size() - hold);
  return false;
}

void StopText::flush(std::string& out) {
  out += held_;
  held_.clear();
  for (Needle& needle : needles_) needle.matched = 0;
}

std::string_view StopText::found_text() const {
  return found() ? std::string_view(needles_[static_cast<size_t>(found_)].text)
                 : std::string_view();
}

}  // namespace fathom
