// Answers of /v1/responses that were given with `store`: for previous_response_id, GET and DELETE.
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
  OrderedJson response;       // as it was given out
  OrderedJson input;          // its request's input as a list of items with ids
  Conversation conversation;  // all that led to it and itself, without instructions and tools
};

// Keeps the last used ones: no more than so many, and no more than so many bytes. Every method may
// be called from any thread.
class ResponseStore {
 public:
  explicit ResponseStore(int max_responses, size_t max_bytes = size_t{64} << 20);

  // One that is larger than the whole store is not kept.
  void put(const std::string& id, StoredResponse response);
  // Null: unknown, deleted or forgotten. What is found counts as used.
  std::shared_ptr<const StoredResponse> find(const std::string& id);
  // The output item with this id of any stored response.
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
