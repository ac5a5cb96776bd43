#include "server/api/tool_request.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace fathom::server {
namespace {

// How a protocol writes the parts of a function tool.
struct Dialect {
  const char* nested;         // member with name, description and schema; "": the tool itself
  const char* schema;         // member of that with the schema of the arguments
  bool schema_needed;         // false: a tool without a schema has no arguments
  const char* function_type;  // the `type` of a tool that the client runs
  bool type_needed;
  bool strict;  // unless the tool says otherwise
};

Dialect dialect_of(Protocol protocol) {
  switch (protocol) {
    case Protocol::chat:
      return {"function", "parameters", false, "function", false, false};
    case Protocol::responses:
      // If a tool does not say it, OpenAI's server tries strict mode, and enforces of the schema
      // what it can.
      return {"", "parameters", false, "function", true, false};
    case Protocol::messages:
      return {"", "input_schema", true, "custom", false, false};
  }
  return {};
}

// `functions` of the chat endpoint, as it was before it had tools.
constexpr Dialect kFunctions = {"", "parameters", false, "function", false, false};

bool begins_with_any(const std::string& text, std::initializer_list<const char*> beginnings) {
  return std::any_of(beginnings.begin(), beginnings.end(),
                     [&](const char* beginning) { return text.starts_with(beginning); });
}

// Whether a tool of another type than function may be left out without an error. One that gives
// access to a resource of the user (a server, a file store) may not.
bool may_be_left_out(const std::string& type, Protocol protocol) {
  if (protocol == Protocol::chat) return type == "custom";
  if (protocol == Protocol::messages) return type.starts_with("tool_search_tool");
  return !begins_with_any(type, {"mcp", "file_search", "code_interpreter", "computer"});
}

[[noreturn]] void refuse_type(const JsonField& type, Protocol protocol) {
  switch (protocol) {
    case Protocol::chat:
      fail("{}: expected 'function', found '{}'", type.path(), type.string());
    case Protocol::responses:
      fail(
          "{}: expected 'function' (or 'web_search' and 'image_generation', which are left out), "
          "found '{}'",
          type.path(), type.string());
    case Protocol::messages:
      fail("{}: expected 'custom' (a tool with input_schema that the client runs), found '{}'",
           type.path(), type.string());
  }
  fail("{}: unknown", type.path());
}

class ToolReader {
 public:
  ToolReader(Protocol protocol, const Dialect& dialect, ToolUse& use)
      : protocol_(protocol), dialect_(dialect), use_(use) {}

  void read(const JsonField& list) {
    if (list.null()) return;
    for (size_t i = 0; i < list.array_size(); ++i)
      if (read_one(list.at(i))) use_.offered.push_back(list.at(i).value());
  }
  // Returns false if the tool is left out.
  bool read_one(const JsonField& tool) { return read_entry(tool, ""); }

 private:
  // Returns false if the tool is left out.
  bool read_entry(const JsonField& tool, const std::string& name_space) {
    const JsonField at = tool.at("type");
    const std::string type =
        at.null() && !dialect_.type_needed ? dialect_.function_type : at.string();
    if (type == dialect_.function_type) {
      read_function(tool, name_space);
      return true;
    }
    if (type == "namespace" && protocol_ == Protocol::responses && name_space.empty())
      return read_namespace(tool);
    if (!may_be_left_out(type, protocol_)) refuse_type(at, protocol_);
    use_.left_out.insert(type);
    return false;
  }

  // The description of a namespace is put in front of its first tool's description.
  bool read_namespace(const JsonField& space) {
    const std::string& name = name_of(space);
    const size_t before = use_.tools.size();
    const JsonField list = space.at("tools");
    for (size_t i = 0; i < list.array_size(); ++i) read_entry(list.at(i), name);
    if (use_.tools.size() == before) return false;
    const std::string about = string_or(space.at("description"), "");
    if (about.empty()) return true;
    OrderedJson& function = use_.tools[before].function;
    const std::string own = function.value("description", "");
    function["description"] = own.empty() ? about : about + "\n\n" + own;
    return true;
  }

  void read_function(const JsonField& tool, const std::string& name_space) {
    const bool nested = *dialect_.nested != 0;
    const JsonField function = nested ? tool.at(dialect_.nested) : tool;
    function.object();
    const std::string& name = name_of(function);
    const JsonField schema = function.at(dialect_.schema);
    const bool given = dialect_.schema_needed || !schema.null();
    if (given) schema.object();
    Tool read;
    read.place = schema.path();
    read.strict = function.at("strict").boolean_or(dialect_.strict);
    read.deferred = protocol_ == Protocol::messages && tool.at("defer_loading").boolean_or(false);
    if (nested) {
      read.function = function.value();
      use_.names.add({name});
    } else {
      read.function["name"] = use_.names.add({name, name_space});
      if (!function.at("description").null())
        read.function["description"] = function.at("description").string();
      if (given) read.function["parameters"] = schema.value();
    }
    use_.tools.push_back(std::move(read));
  }

  static const std::string& name_of(const JsonField& of) {
    const std::string& name = of.at("name").string();
    if (name.empty()) fail("{}: expected a name, found \"\"", of.at("name").path());
    return name;
  }

  const Protocol protocol_;
  const Dialect dialect_;
  ToolUse& use_;
};

bool is_of_type(const OrderedJson& value, std::string_view type) {
  return text_member(value, "type") == type;
}

// Which tools the messages add (true) and remove (false), by name; the last one counts. Tools that
// they define are read, too. Messages hold {"type": "tool_addition", "tool": {"type":
// "tool_reference", "name"} or {"type": "tool_definition", "definition"}} and tool_removal. Results
// of a client's own tool search hold {"type": "tool_reference", "tool_name"}.
class ToolChanges {
 public:
  ToolChanges(ToolReader& reader, ToolUse& use) : reader_(reader), use_(use) {}

  void read(const JsonField& messages) {
    for (size_t i = 0; messages.value().is_array() && i < messages.array_size(); ++i)
      if (messages.at(i).value().is_object()) read_blocks(messages.at(i).at("content"));
  }

  // Removes tools that the model is not shown: deferred ones that no message added. If they would
  // be searched by a tool of OpenAI's or Anthropic's servers, which does not exist here, the model
  // is shown all.
  void apply() {
    const bool all = !use_.left_out.empty();
    std::erase_if(use_.tools, [&](const Tool& tool) {
      const auto changed = offered_.find(tool.function["name"].get_ref<const std::string&>());
      return changed == offered_.end() ? tool.deferred && !all : !changed->second;
    });
  }

 private:
  void read_blocks(const JsonField& content) {
    for (size_t i = 0; content.value().is_array() && i < content.array_size(); ++i) {
      const JsonField block = content.at(i);
      if (is_of_type(block.value(), "tool_result")) read_blocks(block.at("content"));
      if (is_of_type(block.value(), "tool_reference"))
        offered_[block.at("tool_name").string()] = true;
      if (is_of_type(block.value(), "tool_addition")) add(block.at("tool"));
      if (is_of_type(block.value(), "tool_removal"))
        offered_[string_or(block.at("tool").at("name"), "")] = false;
    }
  }

  void add(const JsonField& tool) {
    if (is_of_type(tool.value(), "tool_definition")) {
      const JsonField definition = tool.at("definition");
      reader_.read_one(definition);
      offered_[string_or(definition.at("name"), "")] = true;
    } else {
      offered_[string_or(tool.at("name"), "")] = true;
    }
  }

  ToolReader& reader_;
  ToolUse& use_;
  std::map<std::string, bool> offered_;
};

// The tool that an entry of a choice names: {"type": "function", "name": ..., "namespace": ...};
// the chat protocol has it one level deeper.
std::string named_by(const JsonField& entry, Protocol protocol, const ToolUse& use,
                     const std::string& where) {
  const JsonField at = protocol == Protocol::chat ? entry.at("function") : entry;
  const JsonField name = at.at("name");
  const std::string space =
      protocol == Protocol::responses ? string_or(at.at("namespace"), "") : "";
  std::string shown = use.names.shown({name.string(), space});
  if (!use.names.has(shown))
    fail("{}: '{}' is none of the tools", where.empty() ? name.path() : where, name.string());
  return shown;
}

void set_mode(const std::string& name, ToolUse& use) {
  if (name == "none") use.mode = ToolUse::Mode::none;
  if (name == "required") use.mode = ToolUse::Mode::required;
}

// Keeps only the tools that the choice lists, in its order.
void keep_allowed(const JsonField& allowed, Protocol protocol, ToolUse& use) {
  std::vector<Tool> kept;
  std::map<std::string, const Tool*> by_name;
  for (const Tool& tool : use.tools)
    by_name.emplace(tool.function["name"].get<std::string>(), &tool);
  const JsonField list = allowed.at("tools");
  for (size_t i = 0; i < list.array_size(); ++i) {
    const JsonField type = list.at(i).at("type");
    if (!type.null() && type.string() != "function")
      fail("{}: tools of type '{}' are not offered by this server", type.path(), type.string());
    kept.push_back(*by_name.at(named_by(list.at(i), protocol, use, "")));
  }
  const JsonField mode = allowed.at("mode");
  if (mode.string() != "auto" && mode.string() != "required")
    fail("{}: expected auto or required, found '{}'", mode.path(), mode.string());
  set_mode(mode.string(), use);
  use.tools = std::move(kept);
}

void read_openai_choice(const JsonField& choice, Protocol protocol, ToolUse& use) {
  const bool chat = protocol == Protocol::chat;
  if (choice.value().is_string()) {
    const std::string& mode = choice.string();
    if (mode != "none" && mode != "auto" && mode != "required")
      fail("{}: expected none, auto, required or a function, found '{}'", choice.path(), mode);
    return set_mode(mode, use);
  }
  const std::string& type = choice.at("type").string();
  if (type == "allowed_tools")
    return keep_allowed(chat ? choice.at("allowed_tools") : choice, protocol, use);
  if (type != "function")
    fail("{}: expected function or allowed_tools, found '{}'", choice.at("type").path(), type);
  use.mode = ToolUse::Mode::named;
  use.named = named_by(choice, protocol, use, chat ? "" : choice.path());
}

void read_anthropic_choice(const JsonField& choice, ToolUse& use) {
  const std::string& type = choice.at("type").string();
  if (type == "none") {
    use.mode = ToolUse::Mode::none;
  } else if (type == "any") {
    use.mode = ToolUse::Mode::required;
  } else if (type == "tool") {
    use.mode = ToolUse::Mode::named;
    use.named = named_by(choice, Protocol::messages, use, choice.path());
  } else if (type != "auto") {
    fail("{}: expected auto, any, tool or none, found '{}'", choice.at("type").path(), type);
  }
  use.parallel = !choice.at("disable_parallel_tool_use").boolean_or(false);
}

}  // namespace

std::string ToolNames::add(const ToolName& tool) {
  std::string wanted = shown(tool);
  if (by_own_.contains(tool)) return wanted;
  std::string name = wanted;
  for (int i = 2; !tool.name_space.empty() && by_shown_.contains(name); ++i)
    name = fmt::format("{}_{}", wanted, i);
  by_shown_[name] = tool;
  by_own_[tool] = name;
  return name;
}

std::string ToolNames::shown(const ToolName& tool) const {
  const auto known = by_own_.find(tool);
  if (known != by_own_.end()) return known->second;
  if (tool.name_space.empty()) return tool.name;
  const bool joined = tool.name_space.ends_with("__");
  return tool.name_space + (joined ? "" : "__") + tool.name;
}

ToolName ToolNames::of(const std::string& shown) const {
  const auto found = by_shown_.find(shown);
  if (found != by_shown_.end()) return found->second;
  const ToolName* const meant = only_one(shown);
  return meant ? *meant : ToolName{shown};
}

const ToolName* ToolNames::only_one(const std::string& name) const {
  // Names that are equal stand together, ordered by their namespaces.
  const auto first = by_own_.lower_bound(ToolName{name});
  if (first == by_own_.end() || first->first.name != name) return nullptr;
  const auto second = std::next(first);
  return second != by_own_.end() && second->first.name == name ? nullptr : &first->first;
}

namespace {

// `functions` and `function_call` ("none", "auto" or {"name": ...}): a function is called once.
ToolUse read_legacy_functions(const JsonField& root) {
  ToolUse use;
  if (!root.at("tools").null()) fail("functions: expected nothing beside tools");
  ToolReader(Protocol::chat, kFunctions, use).read(root.at("functions"));
  use.parallel = false;
  const JsonField choice = root.at("function_call");
  if (choice.null()) return use;
  if (choice.value().is_string()) {
    if (choice.string() != "none" && choice.string() != "auto")
      fail("{}: expected none, auto or a function, found '{}'", choice.path(), choice.string());
    set_mode(choice.string(), use);
    return use;
  }
  const JsonField name = choice.at("name");
  use.mode = ToolUse::Mode::named;
  use.named = name.string();
  if (!use.names.has(use.named)) fail("{}: '{}' is none of the functions", name.path(), use.named);
  return use;
}

}  // namespace

bool has_legacy_functions(const JsonField& root) {
  const JsonField functions = root.at("functions");
  return !functions.null() && functions.array_size() > 0;
}

ToolUse read_tool_use(const JsonField& root, Protocol protocol) {
  if (protocol == Protocol::chat && has_legacy_functions(root)) return read_legacy_functions(root);
  ToolUse use;
  ToolReader reader(protocol, dialect_of(protocol), use);
  reader.read(root.at("tools"));
  if (protocol == Protocol::responses) {
    // An agent adds tools to a conversation by items of its input.
    const JsonField input = root.at("input");
    for (size_t i = 0; input.value().is_array() && i < input.array_size(); ++i)
      if (is_of_type(input.at(i).value(), "additional_tools")) reader.read(input.at(i).at("tools"));
  }
  if (protocol == Protocol::messages) {
    ToolChanges changes(reader, use);
    changes.read(root.at("messages"));
    changes.apply();
  }
  const JsonField choice = root.at("tool_choice");
  if (protocol != Protocol::messages)
    use.parallel = root.at("parallel_tool_calls").boolean_or(true);
  if (!choice.null()) {
    if (protocol == Protocol::messages)
      read_anthropic_choice(choice, use);
    else
      read_openai_choice(choice, protocol, use);
  }
  if (use.mode == ToolUse::Mode::required && use.tools.empty())
    fail("{}: {}", choice.path(),
         protocol == Protocol::chat ? "'required', but there are no tools"
                                    : "a tool must be called, but there are none");
  return use;
}

}  // namespace fathom::server
