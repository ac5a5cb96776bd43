// Reads the tools of a request and which of them must be called, for all protocols. These differ in
// the fields of a tool's name and schema, and in the values of tool_choice.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "server/api/json_request.h"

namespace fathom::server {

enum class Protocol { chat, responses, messages };

// A tool as the client knows it. Most have no namespace.
struct ToolName {
  std::string name;
  std::string name_space = {};

  // NOLINTNEXTLINE(modernize-use-nullptr): clang-tidy 14 takes <=> for a comparison with 0.
  auto operator<=>(const ToolName&) const = default;
};

// Maps tools with namespaces to the names that the model is shown, one word each.
class ToolNames {
 public:
  // Adds a tool and returns its name for the model: "space__name", with a number if that is taken.
  std::string add(const ToolName& tool);
  // Returns the model's name of the tool. For a tool that was not added it is the name that it
  // would have got.
  std::string shown(const ToolName& tool) const;
  // Returns the tool of a name that the model wrote. Models may leave out the namespace: a name
  // that only one tool has means that tool. An unknown name is returned without a namespace.
  ToolName of(const std::string& shown) const;
  bool has(const std::string& shown) const { return by_shown_.contains(shown); }

 private:
  // Returns the only tool with that name in any namespace; null if there are none or several.
  const ToolName* only_one(const std::string& name) const;

  std::map<std::string, ToolName> by_shown_;
  std::map<ToolName, std::string> by_own_;
};

struct Tool {
  OrderedJson function;   // name, description, parameters: shown to the model
  std::string place;      // of its schema in the request: "tools[0].function.parameters"
  bool strict = false;    // its schema must be enforced exactly, or the request is refused
  bool deferred = false;  // shown to the model only once the conversation mentions it
};

struct ToolUse {
  enum class Mode { none, automatic, required, named };
  Mode mode = Mode::automatic;
  std::vector<Tool> tools;
  std::string named;  // mode named: the model's name of the tool
  bool parallel = true;
  ToolNames names;
  // Types of tools that this server cannot offer. A model need not use such a tool, and agents
  // always list some of them, so the request is served without them.
  std::set<std::string> left_out;
  OrderedJson offered = OrderedJson::array();  // the entries of `tools` that were not left out
};

// Whether a request to the chat endpoint has `functions`, the field from before there were `tools`.
bool has_legacy_functions(const JsonField& root);

// Reads `tools`, `tool_choice` (or chat's older `functions`, `function_call`) and the field that
// allows parallel calls. Also reads tools that an agent adds and removes in its messages or items.
// Throws Error with the place for what is wrong, for unsupported tools without which the request
// makes no sense, and for a tool_choice that names a missing tool.
ToolUse read_tool_use(const JsonField& root, Protocol protocol);

}  // namespace fathom::server
