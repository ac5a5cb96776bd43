#include "cache/prefix_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <random>

#include "base/check.h"
#include "base/error.h"
#include "base/units.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

// The folder is scanned again after this share of its limit has been written. Twice that share is
// left free, since another process may write to the folder, too.
constexpr int64_t kStridesOfLimit = 20;
// A page counts as last used this much earlier than the page before it, so that a text loses its
// end before its beginning. It is about the time of computing a page.
constexpr int64_t kDepthNanoseconds = 20'000'000;

class File {
 public:
  File(const std::string& path, int flags) : fd_(open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
  ~File() {
    if (fd_ >= 0) close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  explicit operator bool() const { return fd_ >= 0; }
  int fd() const { return fd_; }

 private:
  int fd_;
};

// 0 or an errno.
int write_all(int fd, const std::byte* data, size_t bytes) {
  while (bytes > 0) {
    const ssize_t n = write(fd, data, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    data += n;
    bytes -= static_cast<size_t>(n);
  }
  return 0;
}

// Reads up to `bytes` bytes and returns how many could be read.
size_t read_some(int fd, std::byte* data, size_t bytes) {
  size_t got = 0;
  while (got < bytes) {
    const ssize_t n = read(fd, data + got, bytes - got);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    got += static_cast<size_t>(n);
  }
  return got;
}

// Sets the time of last use to now, less kDepthNanoseconds for each page before it.
void mark_used(int fd, int64_t depth) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  const int64_t at = int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec - depth * kDepthNanoseconds;
  const timespec then = {at / 1'000'000'000, at % 1'000'000'000};
  const timespec times[2] = {then, then};
  // If that is not permitted (a file of another user), the file is merely removed earlier.
  (void)futimens(fd, times);
}

struct Found {
  std::string path;
  PageKey key;
  int64_t bytes = 0, used = 0;  // nanoseconds
};

// The page files of the folder. Anything but a regular file is not ours.
std::vector<Found> pages_in(const std::string& dir) {
  std::vector<Found> found;
  std::error_code ignored;
  for (fs::directory_iterator at(dir, ignored), end; !ignored && at != end; at.increment(ignored)) {
    const std::string name = at->path().filename().string();
    struct stat s {};
    if (kind_of_name(name) != CacheFile::page || lstat(at->path().c_str(), &s) != 0 ||
        !S_ISREG(s.st_mode))
      continue;
    found.push_back({at->path().string(), key_of_name(name), s.st_size,
                     int64_t{s.st_mtim.tv_sec} * 1'000'000'000 + s.st_mtim.tv_nsec});
  }
  return found;
}

// Whether a file begins as pages of this version do.
bool is_current(const std::string& path) {
  File file(path, O_RDONLY | O_NOFOLLOW);
  const PageFileFront want;
  constexpr size_t kStart = sizeof want.magic + sizeof want.version;
  std::byte start[kStart];
  return file && read_some(file.fd(), start, kStart) == kStart &&
         std::memcmp(start, &want, kStart) == 0;
}

// Removes unfinished files of killed runs. A running writer holds a lock on its file.
void remove_unfinished(const std::string& dir) {
  std::error_code ignored;
  for (fs::directory_iterator at(dir, ignored), end; !ignored && at != end; at.increment(ignored)) {
    if (kind_of_name(at->path().filename().string()) != CacheFile::unfinished) continue;
    File file(at->path().string(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    struct stat s {};
    if (file && fstat(file.fd(), &s) == 0 && S_ISREG(s.st_mode) &&
        flock(file.fd(), LOCK_EX | LOCK_NB) == 0)
      unlink(at->path().c_str());
  }
}

int staging_count(const PrefixStoreOptions& o) {
  return static_cast<int>(std::clamp<int64_t>(
      o.staging_bytes / static_cast<int64_t>(page_file_bytes(static_cast<size_t>(o.page_bytes))), 2,
      4096));
}

}  // namespace

StagingPool::StagingPool(int count, size_t bytes, MemoryKind kind)
    : bytes_(bytes), memory_(static_cast<size_t>(count) * bytes, kind) {
  for (int i = 0; i < count; ++i) free_.push_back(memory_.data() + static_cast<size_t>(i) * bytes_);
}

std::byte* StagingPool::try_take() {
  std::lock_guard lock(mutex_);
  if (free_.empty()) return nullptr;
  std::byte* buffer = free_.back();
  free_.pop_back();
  return buffer;
}

std::byte* StagingPool::take() {
  std::unique_lock lock(mutex_);
  given_.wait(lock, [&] { return closed_ || !free_.empty(); });
  if (closed_) return nullptr;
  std::byte* buffer = free_.back();
  free_.pop_back();
  return buffer;
}

bool StagingPool::wait_for_free(std::chrono::milliseconds most) {
  std::unique_lock lock(mutex_);
  return given_.wait_for(lock, most, [&] { return !free_.empty(); });
}

void StagingPool::give(std::byte* buffer) {
  std::lock_guard lock(mutex_);
  free_.push_back(buffer);
  given_.notify_one();
}

void StagingPool::close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  given_.notify_all();
}

PageFetch::~PageFetch() {
  for (std::byte* image : ready_) pool_->give(image);
}

PageId PageFetch::id(size_t page) const {
  PageId id;
  id.root = root;
  id.before = page == 0 ? root : keys[page - 1];
  id.key = keys[page];
  std::copy_n(ids.begin() + static_cast<int64_t>(page) * kPageRows, kPageRows, id.ids.begin());
  return id;
}

bool PageFetch::over() const {
  std::lock_guard lock(mutex_);
  return over_ && ready_.empty();
}

std::vector<std::byte*> PageFetch::take_ready() {
  std::lock_guard lock(mutex_);
  return std::exchange(ready_, {});
}

void PageFetch::stop() {
  std::lock_guard lock(mutex_);
  over_ = true;
  for (std::byte* image : std::exchange(ready_, {})) pool_->give(image);
}

PrefixStore::PrefixStore(const PrefixStoreOptions& options)
    : options_(options),
      file_bytes_(page_file_bytes(static_cast<size_t>(options.page_bytes))),
      stride_(std::max(options.max_bytes / kStridesOfLimit, static_cast<int64_t>(file_bytes_))) {
  if (options_.max_bytes < static_cast<int64_t>(file_bytes_))
    fail("a cache folder of {}: one page of {} tokens takes {}", bytes_text(options_.max_bytes),
         kPageRows, bytes_text(static_cast<int64_t>(file_bytes_)));
  open_folder();
  writing_ = std::make_shared<StagingPool>(staging_count(options_), file_bytes_, options_.staging);
  reading_ = std::make_shared<StagingPool>(staging_count(options_), file_bytes_, options_.staging);
  writer_ = std::thread([this] { write_loop(); });
  reader_ = std::thread([this] { read_loop(); });
}

PrefixStore::~PrefixStore() {
  flush();
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    write_wanted_.notify_all();
    read_wanted_.notify_all();
  }
  reading_->close();
  writer_.join();
  reader_.join();
}

std::string PrefixStore::path_of(PageKey key) const {
  return options_.dir + "/" + page_file_name(key);
}

// A random name, as process numbers may be shared between containers.
std::string PrefixStore::unfinished_path(PageKey key) const {
  std::random_device random;
  const std::string page = path_of(key);
  return fmt::format("{}.{}.tmp", page.substr(0, page.size() - std::strlen(".page")),
                     uint64_t{random()} << 32 | random());
}

void PrefixStore::open_folder() {
  std::error_code error;
  fs::create_directories(options_.dir, error);
  if (error) fail("cannot make the cache folder {}: {}", options_.dir, error.message());
  remove_unfinished(options_.dir);
  // Tries to write a file, so that a read-only folder is reported now and not at the first page.
  const std::string trial = unfinished_path({});
  {
    File file(trial, O_WRONLY | O_CREAT | O_EXCL);
    if (!file) fail("cannot write to the cache folder {}: {}", options_.dir, std::strerror(errno));
  }
  unlink(trial.c_str());
  for (const Found& f : pages_in(options_.dir)) {
    if (!is_current(f.path)) {
      unlink(f.path.c_str());
      ++stats_.damaged;
      continue;
    }
    files_[f.key] = f.bytes;
    stats_.bytes += f.bytes;
  }
  trim();
}

bool PrefixStore::contains(PageKey key) const {
  std::lock_guard lock(mutex_);
  return files_.contains(key);
}

bool PrefixStore::offer(const PageId& id, int64_t depth,
                        const std::function<void(std::byte*)>& fill) {
  {
    std::lock_guard lock(mutex_);
    if (files_.contains(id.key)) return true;
  }
  std::byte* image = writing_->try_take();
  if (!image) return false;
  fill(payload_of(image));
  // The writing thread computes the digest. Until then the front holds the page's identity alone.
  std::memcpy(image, &id, sizeof id);
  std::lock_guard lock(mutex_);
  files_.emplace(id.key, static_cast<int64_t>(file_bytes_));
  stats_.bytes += static_cast<int64_t>(file_bytes_);
  writes_.push_back({id.key, depth, image});
  write_wanted_.notify_one();
  return true;
}

void PrefixStore::count_skipped(int64_t pages) {
  std::lock_guard lock(mutex_);
  stats_.skipped += pages;
}

// Queued, so that it comes after a write of the same page.
void PrefixStore::remove(PageKey key) {
  std::lock_guard lock(mutex_);
  forget_locked(key);
  writes_.push_back({key, 0, nullptr});
  write_wanted_.notify_one();
}

void PrefixStore::write_loop() {
  int64_t since_trim = stride_;  // others may have written since the folder was opened
  std::unique_lock lock(mutex_);
  while (true) {
    write_wanted_.wait(lock, [&] { return stop_ || !writes_.empty(); });
    if (writes_.empty()) return;
    busy_ = true;
    const Write write = writes_.front();
    if (write.image && since_trim + static_cast<int64_t>(file_bytes_) > stride_) {
      lock.unlock();
      trim();
      lock.lock();
      since_trim = 0;
    }
    writes_.pop_front();  // trim() counts the queued ones itself
    lock.unlock();
    if (write.image) {
      write_file(write);
      writing_->give(write.image);
      since_trim += static_cast<int64_t>(file_bytes_);
    } else {
      remove_file(write.key);
    }
    lock.lock();
    busy_ = false;
    written_.notify_all();
  }
}

void PrefixStore::remove_file(PageKey key) {
  unlink(path_of(key).c_str());
  forget(key);
}

// The final name appears after the content has been synced. A machine that loses power may lose the
// name again, but never has a name with half a file.
void PrefixStore::write_file(const Write& write) {
  PageId id;
  std::memcpy(&id, write.image, sizeof id);
  const std::span<std::byte> image(write.image, file_bytes_);
  seal_page_file(image, id);
  const std::string path = path_of(write.key);
  const std::string unfinished = unfinished_path(write.key);
  int error = 0;
  {
    File file(unfinished, O_WRONLY | O_CREAT | O_EXCL);
    if (!file || flock(file.fd(), LOCK_EX | LOCK_NB) != 0) error = errno;
    if (!error) error = write_all(file.fd(), image.data(), image.size());
    if (!error && fsync(file.fd()) != 0) error = errno;
    if (!error) mark_used(file.fd(), write.depth);
    if (!error && rename(unfinished.c_str(), path.c_str()) != 0) error = errno;
  }
  if (error) unlink(unfinished.c_str());
  std::unique_lock lock(mutex_);
  const bool news = error && !failing_;
  failing_ = error != 0;
  if (!error) {
    ++stats_.written;
    // A scan of the folder may have missed it.
    if (files_.emplace(write.key, static_cast<int64_t>(file_bytes_)).second)
      stats_.bytes += static_cast<int64_t>(file_bytes_);
    return;
  }
  ++stats_.failures;
  if (files_.erase(write.key)) stats_.bytes -= static_cast<int64_t>(file_bytes_);
  lock.unlock();
  if (news) report(fmt::format("cannot write {}: {}", unfinished, std::strerror(error)));
}

// Scans the folder: other processes write and remove files there, too.
void PrefixStore::trim() {
  std::vector<Found> found = pages_in(options_.dir);
  std::sort(found.begin(), found.end(),
            [](const Found& a, const Found& b) { return a.used < b.used; });
  int64_t bytes = 0;
  for (const Found& f : found) bytes += f.bytes;
  // Leaves room for what this process and another may write until the next scan.
  size_t gone = 0;
  for (; gone < found.size() && bytes > options_.max_bytes - 2 * stride_; ++gone) {
    unlink(found[gone].path.c_str());  // fails if another process has removed it, which is fine
    bytes -= found[gone].bytes;
  }
  std::lock_guard lock(mutex_);
  files_.clear();
  for (size_t i = gone; i < found.size(); ++i) files_[found[i].key] = found[i].bytes;
  for (const Write& w : writes_)
    if (w.image && files_.emplace(w.key, static_cast<int64_t>(file_bytes_)).second)
      bytes += static_cast<int64_t>(file_bytes_);
  stats_.bytes = bytes;
}

std::shared_ptr<PageFetch> PrefixStore::fetch(PageKey root, std::span<const int32_t> ids,
                                              std::span<const PageKey> keys, size_t first) {
  auto fetch = std::make_shared<PageFetch>(reading_);
  fetch->ids.assign(ids.begin(), ids.begin() + static_cast<int64_t>(keys.size()) * kPageRows);
  fetch->keys.assign(keys.begin(), keys.end());
  fetch->first = first;
  fetch->root = root;
  std::lock_guard lock(mutex_);
  fetches_.push_back(fetch);
  read_wanted_.notify_one();
  return fetch;
}

void PrefixStore::read_loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    read_wanted_.wait(lock, [&] { return stop_ || !fetches_.empty(); });
    if (stop_) return;
    const std::weak_ptr<PageFetch> wanted = fetches_.front();
    fetches_.pop_front();
    serving_ = true;
    lock.unlock();
    serve(wanted);
    lock.lock();
    serving_ = false;
    has_news_ = true;
    news_.notify_all();
  }
}

// Checks before every page whether the fetch still exists: its request may drop it at any time.
void PrefixStore::serve(const std::weak_ptr<PageFetch>& wanted) {
  for (size_t page = 0;; ++page) {
    std::byte* image = reading_->take();
    std::shared_ptr<PageFetch> f = wanted.lock();
    const size_t at = f ? f->first + page : 0;
    bool good = f && image && at < f->keys.size() && read_page(f->id(at), at, image);
    if (f) {
      std::lock_guard lock(f->mutex_);
      good = good && !f->over_;
      if (good) f->ready_.push_back(image);
      if (!good || at + 1 == f->keys.size()) f->over_ = true;
    }
    if (!good && image) reading_->give(image);
    if (!good) return;
    std::lock_guard lock(mutex_);
    has_news_ = true;
    news_.notify_all();
  }
}

bool PrefixStore::read_page(const PageId& id, size_t depth, std::byte* image) {
  const std::string path = path_of(id.key);
  File file(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);  // a pipe of this name must not block
  struct stat s {};
  if (!file || fstat(file.fd(), &s) != 0 || !S_ISREG(s.st_mode)) {
    forget(id.key);
    return false;
  }
  // Reads one byte beyond the page, to notice a file that is too long.
  size_t got = read_some(file.fd(), image, file_bytes_);
  std::byte more;
  if (got == file_bytes_) got += read_some(file.fd(), &more, 1);
  std::string fault = got > file_bytes_ ? "longer than a page"
                                        : page_file_fault({image, got}, id,
                                                          static_cast<size_t>(options_.page_bytes));
  if (fault.empty()) {
    mark_used(file.fd(), static_cast<int64_t>(depth));
    std::lock_guard lock(mutex_);
    ++stats_.read;
    return true;
  }
  unlink(path.c_str());
  forget(id.key);
  report(fmt::format("removed {}: {}", path, fault));
  std::lock_guard lock(mutex_);
  ++stats_.damaged;
  return false;
}

void PrefixStore::forget(PageKey key) {
  std::lock_guard lock(mutex_);
  // A page that is still queued will have a file soon.
  if (std::none_of(writes_.begin(), writes_.end(),
                   [&](const Write& w) { return w.image && w.key == key; }))
    forget_locked(key);
}

void PrefixStore::forget_locked(PageKey key) {
  auto it = files_.find(key);
  if (it == files_.end()) return;
  stats_.bytes -= it->second;
  files_.erase(it);
}

void PrefixStore::report(const std::string& problem) const {
  if (options_.on_problem) options_.on_problem(problem);
}

bool PrefixStore::is_reading() const {
  std::lock_guard lock(mutex_);
  return serving_ || !fetches_.empty();
}

void PrefixStore::wait_for_news(std::chrono::milliseconds most) {
  std::unique_lock lock(mutex_);
  news_.wait_for(lock, most, [&] { return has_news_; });
  has_news_ = false;
}

void PrefixStore::flush() {
  std::unique_lock lock(mutex_);
  written_.wait(lock, [&] { return writes_.empty() && !busy_; });
}

PrefixStoreStats PrefixStore::stats() const {
  std::lock_guard lock(mutex_);
  PrefixStoreStats s = stats_;
  s.files = static_cast<int64_t>(files_.size());
  return s;
}

}  // namespace fathom
