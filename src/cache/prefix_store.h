// Pages of the cache in a folder, so that prompts survive a restart. One file a page, named by the
// page's key (page_file.h). A file comes to its name only when it is whole and on the disk; one
// that is not what it must be is removed when it is met, and its page is computed again. Files of
// other names are left alone. Several processes may share a folder: names say what is in a file,
// so whoever writes one writes the same.
//
// The disk is slow and may hang; the engine must not. Pages are handed over by copy and written by
// a thread; where it does not keep up, pages are not stored. They are read by another thread.
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
  int64_t max_bytes = 0;                  // of all files; the ones not used for longest are removed
  int64_t page_bytes = 0;                 // rows of a page
  MemoryKind staging = MemoryKind::host;  // pinned where pages come from a GPU
  // Told of writes that begin to fail and of files removed as damaged; from other threads.
  std::function<void(const std::string&)> on_problem;
  int64_t staging_bytes = 64 << 20;  // for pages on their way, in each direction; at least two
};

struct PrefixStoreStats {
  int64_t files = 0, bytes = 0;  // as far as this process knows
  int64_t written = 0, read = 0;
  int64_t skipped = 0;   // not stored: the disk did not keep up (count_skipped)
  int64_t damaged = 0;   // files removed as not what they should be
  int64_t failures = 0;  // of writing
};

// Buffers for whole files, a fixed number of them. Thread-safe.
class StagingPool {
 public:
  StagingPool(int count, size_t bytes, MemoryKind kind);
  std::byte* try_take();
  // Waits for one, or for close(): then null.
  std::byte* take();
  // Whether there is one, now or after `most`.
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

// Consecutive pages of one text on their way from the disk. Whoever wants them no longer lets go
// of it.
class PageFetch {
 public:
  explicit PageFetch(std::shared_ptr<StagingPool> pool) : pool_(std::move(pool)) {}
  ~PageFetch();
  PageFetch(const PageFetch&) = delete;
  PageFetch& operator=(const PageFetch&) = delete;

  // Not changed once it is under way: what page 0 follows, the text, its keys, and the first page
  // that is wanted.
  PageKey root;
  std::vector<int32_t> ids;
  std::vector<PageKey> keys;
  size_t first = 0;

  PageId id(size_t page) const;
  // No more pages will come than those that are ready.
  bool over() const;
  // Images of the next pages, in order; give each back to the pool.
  std::vector<std::byte*> take_ready();
  void give(std::byte* image) { pool_->give(image); }
  // No more are wanted.
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
  // Makes the folder where it is missing, removes what killed runs have left, and finds what there
  // is. Throws Error when the folder cannot be written, or the limit holds not even one page.
  explicit PrefixStore(const PrefixStoreOptions& options);
  // Writes what is queued.
  ~PrefixStore();
  PrefixStore(const PrefixStore&) = delete;
  PrefixStore& operator=(const PrefixStore&) = delete;

  // Whether there is, or will be, a file of this page; it may turn out to be damaged.
  bool contains(PageKey key) const;
  // Queues a page that the store lacks; `fill` is called at once to put its rows at the address
  // given. False: not taken, as too many are queued; to be offered again. `depth`: pages before it
  // in its text; of pages used together the deeper ones are removed first.
  bool offer(const PageId& id, int64_t depth, const std::function<void(std::byte*)>& fill);
  // Whether offer() would take a page, now or after a while.
  bool has_room() { return wait_for_room(std::chrono::milliseconds(0)); }
  bool wait_for_room(std::chrono::milliseconds most) { return writing_->wait_for_free(most); }
  void count_skipped(int64_t pages);
  // Removes the file of a page whose rows have turned out to be wrong.
  void remove(PageKey key);

  // Starts to read the pages of `keys` from `first` on, up to the first that is not there. `root`:
  // what the key of page 0 follows. A thread takes one fetch after the other.
  std::shared_ptr<PageFetch> fetch(PageKey root, std::span<const int32_t> ids,
                                   std::span<const PageKey> keys, size_t first);
  // Whether the reader has something to do, be it that nobody wants it any more.
  bool is_reading() const;
  // Until some fetch has news, or for so long.
  void wait_for_news(std::chrono::milliseconds most);

  // Until everything queued is written: for tests and an orderly end.
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
  // Bytes that may be written between two looks through the folder. Another process may write as
  // much meanwhile.
  const int64_t stride_;
  std::shared_ptr<StagingPool> writing_, reading_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable write_wanted_, read_wanted_, written_, news_;
  std::unordered_map<PageKey, int64_t, PageKeyHash> files_;  // and their bytes; queued ones too
  std::deque<Write> writes_;
  std::deque<std::weak_ptr<PageFetch>> fetches_;
  bool failing_ = false;  // the last write did
  bool busy_ = false, serving_ = false, stop_ = false, has_news_ = false;
  PrefixStoreStats stats_;

  std::thread writer_, reader_;
};

}  // namespace fathom
