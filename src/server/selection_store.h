// What the indexer selected for the tokens of the last requests, for /v1/dsa/selection.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/request.h"

namespace fathom::server {

// All methods may be called from any thread.
class SelectionStore {
 public:
  // Keeps no more than `max_bytes`: the oldest requests go first, and of a single request that
  // would need more, the tokens past the limit are not kept.
  explicit SelectionStore(size_t max_bytes);
  ~SelectionStore();

  // A request begins; `id` is the one the API tells its client, `prompt` its token ids.
  void begin(const std::string& id, std::vector<int32_t> prompt);
  // The request has not begun after all.
  void forget(const std::string& id);
  // The next generated token of the request, what led to it, and whether the MTP block had guessed
  // it. Called on the engine thread: must be quick (positions are kept as gaps, one byte most of
  // the time).
  void append(const std::string& id, int32_t token, const Selection& selection,
              bool drafted = false);

  struct Text {
    std::vector<int32_t> ids;  // prompt, then what was generated
    int64_t prompt = 0;
    int64_t kept = 0;              // generated tokens whose selection is kept
    std::vector<int64_t> drafted;  // which generated tokens had been guessed (0 is the first)
    int layers = 0;
  };
  // False: nothing is known of `id`.
  bool find(const std::string& id, Text& text) const;
  // By layer, the ascending positions selected for generated token `token` (0 is the first).
  bool find(const std::string& id, int64_t token, std::vector<std::vector<int32_t>>& layers) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom::server
