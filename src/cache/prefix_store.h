// Pages of the cache in a folder, so that prompts survive a restart. Each page is one file, named
// by its key (page_file.h). A file gets its final name only after its content is complete and
// synced. A damaged file is removed when it is read, and its page is computed again. Files with
// other names are never touched. Several processes may share a folder: a name determines the
// content, so two writers of one name write the same bytes.
//
// The engine must not wait for a slow or hanging disk. It copies a page into a buffer, and one
// thread writes the buffers. While that thread does not keep up, pages are not stored. Another
// thread reads.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "cache/page_file.h"
#include "tensor/buffer.h"

namespace fathom {

struct PrefixStoreOptions {
  std::string dir;
  int64_t max_bytes = 0;                  // of all files; the least recently used are removed
  int64_t page_bytes = 0;                 // rows of a page
  MemoryKind staging = MemoryKind::host;  // pinned where pages come from a GPU
  // Called when writes begin to fail and when a damaged file was removed; from other threads.
  std::function<void(const std::string&)> on_problem;
  int64_t staging_bytes = 64 << 20;  // buffers in each direction; at least two buffers
};

struct PrefixStoreStats {
  int64_t files = 0, bytes = 0;  // as far as this process knows
  int64_t written = 0, read = 0;
  int64_t skipped = 0;   // not stored because the disk did not keep up (count_skipped)
  int64_t damaged = 0;   // removed because their content did not match their name
  int64_t failures = 0;  // of writing

  PrefixStoreStats& operator+=(const PrefixStoreStats& o) {
    files += o.files;
    bytes += o.bytes;
    written += o.written;
    read += o.read;
    skipped += o.skipped;
    damaged += o.damaged;
    failures += o.failures;
    return *this;
  }
};

// A fixed number of buffers, each for one whole file. Thread-safe.
class StagingPool {
 public:
  StagingPool(int count, size_t bytes, MemoryKind kind);
  std::byte* try_take();
  // Waits for a free buffer. Null after close().
  std::byte* take();
  // Waits no longer than `most` for a free buffer; returns whether there is one.
  bool wait_for_free(std::chrono::milliseconds most);
  void give(std::byte* buffer);
  void close();
  size_t bytes() const { return bytes_; }  // of one

 private:
  const size_t bytes_;
  Buffer memory_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable given_;
  std::vector<std::byte*> free_;
  bool closed_ = false;
};

// Consecutive pages of one text that are being read from the disk. Reading ends early when the last
// reference to this object is dropped.
class PageFetch {
 public:
  explicit PageFetch(std::shared_ptr<StagingPool> pool) : pool_(std::move(pool)) {}
  ~PageFetch();
  PageFetch(const PageFetch&) = delete;
  PageFetch& operator=(const PageFetch&) = delete;

  // Constant once reading has begun: the key that page 0 follows, the text, the keys of its pages,
  // and the first page that is wanted.
  PageKey root;
  std::vector<int32_t> ids;
  std::vector<PageKey> keys;
  size_t first = 0;

  PageId id(size_t page) const;
  // Whether reading has ended: no page will follow those that are ready.
  bool over() const;
  // Images of the next pages, in order. The caller gives each back to the pool.
  std::vector<std::byte*> take_ready();
  void give(std::byte* image) { pool_->give(image); }
  // Ends reading: no further page is wanted.
  void stop();

 private:
  friend class PrefixStore;
  std::shared_ptr<StagingPool> pool_;
  mutable std::mutex mutex_;  // guards what follows
  std::vector<std::byte*> ready_;
  bool over_ = false;
};

// Every method may be called from any thread; none but the constructor touches the disk.
class PrefixStore {
 public:
  // Makes the folder if it is missing, removes unfinished files of killed runs, and lists the pages
  // in it. Throws Error when the folder cannot be written, or when the limit is below one page.
  explicit PrefixStore(const PrefixStoreOptions& options);
  // Writes the queued pages first.
  ~PrefixStore();
  PrefixStore(const PrefixStore&) = delete;
  PrefixStore& operator=(const PrefixStore&) = delete;

  // Whether a file of this page exists or is queued. It may still turn out to be damaged.
  bool contains(PageKey key) const;
  // Queues a page that the store lacks. `fill` is called before this returns and puts the page's
  // rows at the address given. Returns false if too many pages are queued; the caller may offer it
  // again later. `depth` is the number of pages before it in its text: of pages that were used at
  // the same time, the deeper ones are removed first.
  bool offer(const PageId& id, int64_t depth, const std::function<void(std::byte*)>& fill);
  // Whether offer() would take a page now, or after waiting no longer than `most`.
  bool has_room() { return wait_for_room(std::chrono::milliseconds(0)); }
  bool wait_for_room(std::chrono::milliseconds most) { return writing_->wait_for_free(most); }
  void count_skipped(int64_t pages);
  // Removes the file of a page whose rows turned out to be wrong.
  void remove(PageKey key);

  // Starts to read the pages of `keys` from number `first` on, up to the first that is missing.
  // `root` is the key that page 0's follows. The reading thread serves fetches one after the other.
  std::shared_ptr<PageFetch> fetch(PageKey root, std::span<const int32_t> ids,
                                   std::span<const PageKey> keys, size_t first);
  // Whether the reading thread is busy, possibly with pages that are no longer wanted.
  bool is_reading() const;
  // Waits until some fetch has new pages or has ended, but no longer than `most`.
  void wait_for_news(std::chrono::milliseconds most);

  // Waits until every queued page is written: for tests and an orderly end.
  void flush();
  PrefixStoreStats stats() const;

 private:
  struct Write {
    PageKey key;
    int64_t depth;
    std::byte* image;  // null: the file is to be removed
  };

  void open_folder();
  void scan(bool at_start);
  void write_loop();
  void read_loop();
  void write_file(const Write& write);
  void remove_file(PageKey key);
  void serve(const std::weak_ptr<PageFetch>& wanted);
  bool read_page(const PageId& id, size_t depth, std::byte* image);
  void trim();
  void forget(PageKey key);
  void forget_locked(PageKey key);
  void report(const std::string& problem) const;
  std::string path_of(PageKey key) const;
  std::string unfinished_path(PageKey key) const;

  const PrefixStoreOptions options_;
  const size_t file_bytes_;
  // Bytes that may be written between two scans of the folder. Another process may write as much in
  // that time.
  const int64_t stride_;
  std::shared_ptr<StagingPool> writing_, reading_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable write_wanted_, read_wanted_, written_, news_;
  std::unordered_map<PageKey, int64_t, PageKeyHash> files_;  // and their bytes; queued ones too
  std::deque<Write> writes_;
  std::deque<std::weak_ptr<PageFetch>> fetches_;
  bool failing_ = false;  // the last write failed
  bool busy_ = false, serving_ = false, stop_ = false, has_news_ = false;
  PrefixStoreStats stats_;

  std::thread writer_, reader_;
};

}  // namespace fathom
