#include "server/api/responses_store.h"

#include <algorithm>
#include <utility>

#include "server/http/sse.h"

namespace fathom::server {
namespace {

size_t size_of(const StoredResponse& stored) {
  size_t bytes = dump_json(stored.response).size() + dump_json(stored.input).size();
  for (const Message& m : stored.conversation) {
    bytes += sizeof(Message) + m.content.size() + m.reasoning_content.size();
    for (const ToolCall& c : m.tool_calls) {
      bytes += sizeof(ToolCall) + c.id.size() + c.name.size() + c.arguments.size();
    }
  }
  return bytes;
}

}  // namespace

ResponseStore::ResponseStore(int max_responses, size_t max_bytes)
    : max_responses_(static_cast<size_t>(std::max(max_responses, 0))), max_bytes_(max_bytes) {}

void ResponseStore::put(const std::string& id, StoredResponse response) {
  // Everything that takes time or is freed happens outside the lock.
  const size_t bytes = size_of(response);
  auto shared = std::make_shared<const StoredResponse>(std::move(response));
  if (max_responses_ == 0 || bytes > max_bytes_) return;
  const std::lock_guard lock(mutex_);
  if (const auto same = by_id_.find(id); same != by_id_.end()) drop(same->second);
  entries_.push_front({id, bytes, std::move(shared)});
  by_id_[id] = entries_.begin();
  bytes_ += bytes;
  while (entries_.size() > max_responses_ || bytes_ > max_bytes_) drop(std::prev(entries_.end()));
}

std::shared_ptr<const StoredResponse> ResponseStore::find(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->response;
}

std::optional<OrderedJson> ResponseStore::find_item(const std::string& item_id) const {
  const std::lock_guard lock(mutex_);
  for (const Entry& entry : entries_) {
    for (const OrderedJson& item : entry.response->response["output"]) {
      if (item["id"] == item_id) return item;
    }
  }
  return std::nullopt;
}

bool ResponseStore::erase(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return false;
  drop(found->second);
  return true;
}

size_t ResponseStore::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

void ResponseStore::drop(std::list<Entry>::iterator entry) {
  bytes_ -= entry->bytes;
  by_id_.erase(entry->id);
  entries_.erase(entry);
}

}  // namespace fathom::server
