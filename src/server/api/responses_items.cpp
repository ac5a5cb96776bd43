#include "server/api/responses_items.h"

#include <set>
#include <utility>

#include "server/api/content_parts.h"
#include "text/json_reader.h"

namespace fathom::server {
namespace {

using At = JsonAt<OrderedJson>;

// The text of a string or of parts. A part that is no text is replaced by a placeholder, or refused
// if the request is about this item (`asks`).
std::string read_text(const At& at, bool asks = false) {
  if (at.value().is_string()) return at.string();
  at.expect(at.value().is_array(), "a string or a list of text parts");
  std::string text;
  for (size_t i = 0; i < at.array_size(); ++i) {
    const At part = at.at(i);
    const std::optional<std::string> said = text_of_part(part);
    if (!said && asks)
      fail("{}: this model takes text alone: expected input_text or output_text, found '{}'",
           part.at("type").path(), part.at("type").string());
    text += said.value_or(placeholder_of(part.at("type").string()));
  }
  return text;
}

// Calls of tools that are no functions, made by other servers: custom_tool_call, local_shell_call,
// ... The ids of those whose output is in the list, too: they are told as calls and results. The
// output of a local_shell_call is a function_call_output.
std::set<std::string> foreign_calls(const OrderedJson& items) {
  std::set<std::string> called, answered;
  for (const OrderedJson& item : items) {
    const std::string type = text_member(item, "type");
    if (type == "function_call") continue;
    if (type.ends_with("_call")) called.insert(text_member(item, "call_id"));
    if (type.ends_with("_output") && called.contains(text_member(item, "call_id")))
      answered.insert(text_member(item, "call_id"));
  }
  answered.erase("");
  return answered;
}

class ItemReader {
 public:
  ItemReader(const OrderedJson& items, const ItemLookup& lookup, const ToolNames& names,
             Conversation& conversation)
      : lookup_(lookup),
        names_(names),
        conversation_(conversation),
        foreign_(foreign_calls(items)) {}

  // `asks`: the request is about this item.
  void read(const At& item, bool asks = false) {
    const std::string type =
        item.at("type").null() && !item.at("role").null() ? "message" : item.at("type").string();
    if (type == "message") return read_message(item, asks);
    if (type == "reasoning") return read_reasoning(item);
    if (type == "function_call") return read_call(item);
    if (type == "function_call_output") return read_output(item);
    if (type == "item_reference") return read_reference(item);
    if (type == "agent_message") return read_agent_message(item);
    if (foreign_.contains(text_member(item.value(), "call_id"))) {
      return type.ends_with("_output") ? read_output(item) : read_foreign_call(item, type);
    }
    if (!item.at("role").null() && type != "additional_tools") {
      fail(
          "{}: expected message, reasoning, function_call, function_call_output or "
          "item_reference, found '{}'",
          item.at("type").path(), type);
    }
    skipped_.insert(type);
  }

  std::set<std::string> take_skipped() { return std::move(skipped_); }

 private:
  void read_message(const At& item, bool asks) {
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
    m.content = read_text(content, asks);
    conversation_.push_back(std::move(m));
  }

  // What another agent of the same client said to this one.
  void read_agent_message(const At& item) {
    turn_open_ = false;
    Message m;
    m.role = Role::user;
    m.place = item.path();
    const std::string author = text_member(item.value(), "author");
    m.content = (author.empty() ? "" : author + ": ") + read_text(item.at("content"));
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
    if (call.name.empty()) fail("{}: expected a name, found \"\"", item.at("name").path());
    if (const At space = item.at("namespace"); !space.null())
      call.name = names_.shown({call.name, space.string()});
    call.arguments = read_arguments(item.at("arguments"));
    said(item, false).tool_calls.push_back(std::move(call));
  }

  // {"type": "custom_tool_call", "name", "input"}, {"type": "local_shell_call", "action"}, ...
  void read_foreign_call(const At& item, const std::string& type) {
    ToolCall call;
    call.id = item.at("call_id").string();
    call.name = text_member(item.value(), "name");
    if (call.name.empty()) call.name = type.substr(0, type.size() - std::string("_call").size());
    OrderedJson arguments = OrderedJson::object();
    for (const char* key : {"input", "action", "arguments", "operation"})
      if (!item.at(key).null()) arguments[key] = item.at(key).value();
    call.arguments = python_dumps(arguments);
    said(item, false).tool_calls.push_back(std::move(call));
  }

  void read_output(const At& item) {
    turn_open_ = false;
    Message m;
    m.role = Role::tool;
    m.place = item.path();
    m.tool_call_id = item.at("call_id").string();
    const At output = item.at("output");
    const bool other = output.value().is_object() || output.null();
    m.content = other ? python_dumps(output.value()) : read_text(output);
    conversation_.push_back(std::move(m));
  }

  void read_reference(const At& item) {
    const std::string& id = item.at("id").string();
    const std::optional<OrderedJson> stored = lookup_(id);
    if (!stored) fail("{}: no stored item has the id '{}'", item.at("id").path(), id);
    read(At(*stored, item.path()));
  }

  // The assistant message that items are being added to; a new one if there is none or if `anew`.
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
  const ToolNames& names_;
  Conversation& conversation_;
  const std::set<std::string> foreign_;
  std::set<std::string> skipped_;
  bool turn_open_ = false;
};

}  // namespace

std::set<std::string> append_items(const OrderedJson& input, std::string_view where,
                                   const ItemLookup& lookup, const ToolNames& names,
                                   Conversation& conversation) {
  const At at(input, std::string(where));
  if (input.is_string()) {
    Message m;
    m.role = Role::user;
    m.place = where;
    m.content = at.string();
    conversation.push_back(std::move(m));
    return {};
  }
  at.expect(input.is_array(), "a string or a list of items");
  const std::optional<size_t> asking = asking_message(input);
  ItemReader reader(input, lookup, names, conversation);
  for (size_t i = 0; i < at.array_size(); ++i) reader.read(at.at(i), asking == i);
  return reader.take_skipped();
}

}  // namespace fathom::server
