// SelectionStore: the positions that the indexer selected for the tokens of the last requests, for
// /v1/dsa/selection.
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
  // Keeps no more than `max_bytes`. The oldest requests are dropped first. Of a single request that
  // needs more, the tokens beyond the limit are not kept.
  explicit SelectionStore(size_t max_bytes);
  ~SelectionStore();

  // Begins a request. `id` is the one that the client knows, `prompt` its token ids.
  void begin(const std::string& id, std::vector<int32_t> prompt);
  // Removes a request that was not started.
  void forget(const std::string& id);
  // Adds the next generated token of the request, the positions selected for it, and whether it was
  // a draft. Called on the engine thread, so it must be quick (positions are stored as gaps, mostly
  // one byte each).
  void append(const std::string& id, int32_t token, const Selection& selection,
              bool drafted = false);

  struct Text {
    std::vector<int32_t> ids;  // prompt, then what was generated
    int64_t prompt = 0;
    int64_t kept = 0;              // generated tokens whose selection is kept
    std::vector<int64_t> drafted;  // indices of generated tokens that were drafts (0 is the first)
    int layers = 0;
  };
  // Returns false if `id` is not known.
  bool find(const std::string& id, Text& text) const;
  // Gets, by layer, the ascending positions selected for generated token `token` (0 is the first).
  bool find(const std::string& id, int64_t token, std::vector<std::vector<int32_t>>& layers) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom::server
