// The tools of a request and which of them must be called, read in one place for all protocols.
// They differ in where they write a name or a schema, and in the words of the choice.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "server/api/json_request.h"

namespace fathom::server {

enum class Protocol { chat, responses, messages };

// A tool as its client knows it. Most have no namespace.
struct ToolName {
  std::string name;
  std::string name_space = {};

  auto operator<=>(const ToolName&) const = default;
};

// The names that the model is shown, one word each, for tools that live in namespaces.
class ToolNames {
 public:
  // The name for the model of a new tool: "space__name", numbered where that is taken.
  std::string add(const ToolName& tool);
  // The name under which the model knows the tool; for one that was not added the name that it
  // would have had.
  std::string shown(const ToolName& tool) const;
  // The tool behind a name that the model wrote. Models leave the namespace out: a name that only
  // one tool has is that tool's. One that the model made up belongs to no namespace.
  ToolName of(const std::string& shown) const;
  bool has(const std::string& shown) const { return by_shown_.contains(shown); }

 private:
  // The only tool of that name, whatever its namespace; null where there are none or several.
  const ToolName* only_one(const std::string& name) const;

  std::map<std::string, ToolName> by_shown_;
  std::map<ToolName, std::string> by_own_;
};

struct Tool {
  OrderedJson function;   // name, description, parameters: what the model is shown
  std::string place;      // of its schema in the request: "tools[0].function.parameters"
  bool strict = false;    // its schema must be followed exactly, or the request be refused
  bool deferred = false;  // the model hears of it when the conversation has brought it up
};

struct ToolUse {
  enum class Mode { none, automatic, required, named };
  Mode mode = Mode::automatic;
  std::vector<Tool> tools;
  std::string named;  // of mode named: what the model knows the tool as
  bool parallel = true;
  ToolNames names;
  // Types of tools that this server cannot offer. A model may use such a tool and need not, and
  // agents list them without being asked to; so the request is served without them.
  std::set<std::string> left_out;
  OrderedJson offered = OrderedJson::array();  // the entries of `tools` that were not left out
};

// Whether a request to the chat endpoint has its tools as `functions`, as was the way before there
// were tools.
bool has_legacy_functions(const JsonField& root);

// Reads `tools`, `tool_choice` (or chat's older `functions`, `function_call`) and what says whether
// calls may be parallel; tools that an agent adds and withdraws in its messages or items, too.
// Throws Error with the place for what is wrong, for tools that cannot be left out because they are
// why the request is made, and for a choice that names a tool which is not there.
ToolUse read_tool_use(const JsonField& root, Protocol protocol);

}  // namespace fathom::server
