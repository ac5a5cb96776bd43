#include "eval/results_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/output_file.h"

namespace fathom::eval {
namespace {

constexpr std::string_view kBegin = R"({"run":")";  // of every line

}  // namespace

ResultsFile::ResultsFile(std::string path) : path_(std::move(path)) {
  if (path_.empty()) return;
  file_ = ::open(output_file(path_).c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file_ < 0) fail("{}: cannot be opened for results: {}", path_, std::strerror(errno));
  try {
    if (::flock(file_, LOCK_EX | LOCK_NB) != 0)
      fail("{}: another run is writing its results there", path_);
    read();
  } catch (...) {
    ::close(file_);
    throw;
  }
}

ResultsFile::~ResultsFile() {
  if (file_ >= 0) ::close(file_);
}

void ResultsFile::read() {
  std::string text;
  char block[1 << 16];
  for (ssize_t n; (n = ::read(file_, block, sizeof(block))) != 0;) {
    if (n < 0) fail("{}: cannot be read: {}", path_, std::strerror(errno));
    text.append(block, static_cast<size_t>(n));
  }
  const size_t whole = text.rfind('\n') + 1;  // npos + 1 is 0
  size_t line = 1;
  for (size_t at = 0; at < whole; ++line) {
    const size_t end = text.find('\n', at);
    try {
      const Json j = Json::parse(text.begin() + static_cast<std::ptrdiff_t>(at),
                                 text.begin() + static_cast<std::ptrdiff_t>(end));
      Record r;
      r.item = j.at("item").get<size_t>();
      r.value = j.at("value").get<double>();
      r.weight = j.at("weight").get<double>();
      r.detail = j.at("detail");
      keep(j.at("run").get<std::string>(), r);
    } catch (const nlohmann::json::exception&) {
      throw_foreign(line);
    }
    at = end + 1;
  }
  cut_off(std::string_view(text).substr(whole), line, whole);
}

// Removes a last line without an end, which a killed run was writing. A line that does not begin as
// a result does is not removed.
void ResultsFile::cut_off(std::string_view rest, size_t line, size_t end) {
  if (rest.empty()) return;
  if (!rest.starts_with(kBegin) && !kBegin.starts_with(rest)) throw_foreign(line);
  if (::ftruncate(file_, static_cast<off_t>(end)) != 0)
    fail("{}: line {} is cut off and cannot be removed: {}", path_, line, std::strerror(errno));
}

void ResultsFile::throw_foreign(size_t line) const {
  fail("{}: line {} is no result of an evaluation: is this the right file?", path_, line);
}

void ResultsFile::keep(const std::string& run, const Record& record) {
  records_[run].try_emplace(record.item, record);
}

std::map<size_t, Record> ResultsFile::find(const PageKey& run) const {
  const auto it = records_.find(text_of(run));
  return it == records_.end() ? std::map<size_t, Record>() : it->second;
}

void ResultsFile::append(const RunLabel& label, const std::string& where, const Record& record) {
  if (!std::isfinite(record.value))
    fail("{}: the model's output is not a number ({})", where, record.value);
  keep(text_of(label.run), record);
  if (file_ < 0) return;
  const Json j = {{"run", text_of(label.run)}, {"task", label.task},     {"variant", label.variant},
                  {"item", record.item},       {"where", where},         {"value", record.value},
                  {"weight", record.weight},   {"detail", record.detail}};
  const std::string line = j.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  for (size_t at = 0; at < line.size();) {
    const ssize_t n = ::write(file_, line.data() + at, line.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("{}: a result cannot be written: {}", path_, std::strerror(errno));
    at += static_cast<size_t>(n);
  }
}

}  // namespace fathom::eval
