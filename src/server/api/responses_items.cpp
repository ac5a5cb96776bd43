#include "server/api/responses_items.h"

#include <utility>

#include "text/json_reader.h"

namespace fathom::server {
namespace {

using At = JsonAt<OrderedJson>;

// Text in whichever of the forms clients use: a string, or parts of it.
std::string read_text(const At& at) {
  if (at.value().is_string()) return at.string();
  at.expect(at.value().is_array(), "a string or a list of text parts");
  std::string text;
  for (size_t i = 0; i < at.array_size(); ++i) {
    const At part = at.at(i);
    const std::string& type = part.at("type").string();
    if (type == "refusal") {
      text += part.at("refusal").string();
    } else if (type == "input_text" || type == "output_text" || type == "reasoning_text" ||
               type == "summary_text" || type == "text") {
      text += part.at("text").string();
    } else {
      fail("{}: this model takes text alone: expected input_text or output_text, found '{}'",
           part.at("type").path(), type);
    }
  }
  return text;
}

class ItemReader {
 public:
  ItemReader(const ItemLookup& lookup, Conversation& conversation)
      : lookup_(lookup), conversation_(conversation) {}

  void read(const At& item) {
    const std::string type =
        item.at("type").null() && !item.at("role").null() ? "message" : item.at("type").string();
    if (type == "message") return read_message(item);
    if (type == "reasoning") return read_reasoning(item);
    if (type == "function_call") return read_call(item);
    if (type == "function_call_output") return read_output(item);
    if (type == "item_reference") return read_reference(item);
    fail(
        "{}: expected message, reasoning, function_call, function_call_output or item_reference, "
        "found '{}'",
        item.at("type").path(), type);
  }

 private:
  void read_message(const At& item) {
    const std::string& role = item.at("role").string();
    const At content = item.at("content");
    if (role == "assistant") {
      const std::string text = content.null() ? std::string() : read_text(content);
      // Text behind calls still belongs to them: their outputs follow.
      Message& m = said(item, turn_open_ && !conversation_.back().content.empty() &&
                                  conversation_.back().tool_calls.empty());
      m.content += text;
      return;
    }
    turn_open_ = false;
    Message m;
    if (role == "user") {
      m.role = Role::user;
    } else if (role == "system" || role == "developer") {
      m.role = Role::system;
    } else {
      fail("{}: expected user, assistant, system or developer, found '{}'", item.at("role").path(),
           role);
    }
    m.place = item.path();
    m.content = read_text(content);
    conversation_.push_back(std::move(m));
  }

  // The text itself where it is given, else its summary. What is only there encrypted is another
  // server's and cannot be read.
  void read_reasoning(const At& item) {
    const bool given = !item.at("content").null() && item.at("content").array_size() > 0;
    const At source = given ? item.at("content") : item.at("summary");
    std::string text = source.null() ? std::string() : read_text(source);
    Message& m = said(item, turn_open_ && !conversation_.back().content.empty() &&
                                conversation_.back().tool_calls.empty());
    m.reasoning_content += text;
  }

  void read_call(const At& item) {
    ToolCall call;
    call.id = item.at("call_id").string();
    call.name = item.at("name").string();
    call.arguments = read_arguments(item.at("arguments"));
    if (call.name.empty()) fail("{}: expected a name, found \"\"", item.at("name").path());
    said(item, false).tool_calls.push_back(std::move(call));
  }

  void read_output(const At& item) {
    turn_open_ = false;
    Message m;
    m.role = Role::tool;
    m.place = item.path();
    m.tool_call_id = item.at("call_id").string();
    m.content = read_text(item.at("output"));
    conversation_.push_back(std::move(m));
  }

  void read_reference(const At& item) {
    const std::string& id = item.at("id").string();
    const std::optional<OrderedJson> stored = lookup_(id);
    if (!stored) fail("{}: no stored item has the id '{}'", item.at("id").path(), id);
    read(At(*stored, item.path()));
  }

  // The assistant message that is being put together; a new one where none is, or when asked for.
  Message& said(const At& item, bool anew) {
    if (!turn_open_ || anew) {
      Message m;
      m.place = item.path();  // the first of the items that it is made of
      m.role = Role::assistant;
      conversation_.push_back(std::move(m));
    }
    turn_open_ = true;
    return conversation_.back();
  }

  const ItemLookup& lookup_;
  Conversation& conversation_;
  bool turn_open_ = false;
};

}  // namespace

void append_items(const OrderedJson& input, std::string_view where, const ItemLookup& lookup,
                  Conversation& conversation) {
  const At at(input, std::string(where));
  if (input.is_string()) {
    Message m;
    m.role = Role::user;
    m.place = where;
    m.content = at.string();
    conversation.push_back(std::move(m));
    return;
  }
  at.expect(input.is_array(), "a string or a list of items");
  ItemReader reader(lookup, conversation);
  for (size_t i = 0; i < at.array_size(); ++i) reader.read(at.at(i));
}

}  // namespace fathom::server
