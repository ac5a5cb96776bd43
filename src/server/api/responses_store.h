// ResponseStore: answers of /v1/responses to requests with `store`, for previous_response_id, GET
// and DELETE.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

#include "text/messages.h"

namespace fathom::server {

struct StoredResponse {
  OrderedJson response;       // as the client got it
  OrderedJson input;          // its request's input as a list of items with ids
  Conversation conversation;  // everything before it, and itself, without instructions and tools
};

// Keeps the last used responses, within a number and a size in bytes. Every method may be called
// from any thread.
class ResponseStore {
 public:
  explicit ResponseStore(int max_responses, size_t max_bytes = size_t{64} << 20);

  // Stores a response. One that is larger than `max_bytes` is not kept.
  void put(const std::string& id, StoredResponse response);
  // Returns null if it is unknown, deleted or dropped. Counts as a use.
  std::shared_ptr<const StoredResponse> find(const std::string& id);
  // Returns the output item with this id, from any stored response.
  std::optional<OrderedJson> find_item(const std::string& item_id) const;
  bool erase(const std::string& id);

  size_t bytes() const;

 private:
  struct Entry {
    std::string id;
    size_t bytes;
    std::shared_ptr<const StoredResponse> response;
  };

  void drop(std::list<Entry>::iterator entry);

  const size_t max_responses_, max_bytes_;
  mutable std::mutex mutex_;  // guards all below
  std::list<Entry> entries_;  // the last used first
  std::unordered_map<std::string, std::list<Entry>::iterator> by_id_;
  size_t bytes_ = 0;
};

}  // namespace fathom::server
