// Grammars over bytes and marker tokens. A grammar says which texts an answer may be.
//
// A grammar is a set of rules, and a rule a graph of nodes that ends in kEnd. Nodes are made from
// back to front: each function takes the node that follows and returns the new one. Rules may call
// rules, also themselves; a call returns where the rule reaches kEnd.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

// A form cannot be made into a grammar. The message is for the client. Caught where forms are
// compiled.
class GrammarRefusal : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A schema contradicts itself, so no value follows it. If it is one of several branches, the branch
// is dropped.
class ContradictorySchema : public GrammarRefusal {
 public:
  using GrammarRefusal::GrammarRefusal;
};

class Grammar {
 public:
  static constexpr int32_t kEnd = 0;  // the node that ends every rule
  static constexpr uint32_t kUnbounded = UINT32_MAX;
  // Nodes of one grammar. A schema that needs more is refused rather than served slowly.
  static constexpr size_t kMaxNodes = 400'000;
  static constexpr int kNever = INT32_MAX;

  enum class Kind : uint8_t {
    end,     // back to the caller
    bytes,   // one byte; edges [a, b)
    split,   // any of the targets [a, b)
    call,    // rule a, then node b
    repeat,  // rule a, `min` to `max` times, then node b; the rule must not match ""
    marker,  // the added token a, then node b
  };
  struct Node {
    Kind kind = Kind::end;
    int32_t a = 0, b = 0;
    uint32_t min = 0, max = 0;
  };
  struct Edge {
    uint8_t low = 0, high = 0;  // bytes low to high, both included
    int32_t target = kEnd;
  };
  struct Rule {
    std::string name;  // for messages: the place in the form that it was made of
    int32_t start = -1;
  };

  Grammar();

  // Edges may overlap: all that match are followed.
  int32_t bytes(const std::vector<Edge>& edges);
  int32_t byte(char c, int32_t next) { return bytes({edge(c, next)}); }
  int32_t literal(std::string_view text, int32_t next);
  // Matches any of `texts`. Texts with a common beginning share its nodes.
  int32_t any_of(std::vector<std::string> texts, int32_t next);
  int32_t split(const std::vector<int32_t>& targets);
  int32_t call(int32_t rule, int32_t next);
  int32_t repeat(int32_t rule, uint32_t min, uint32_t max, int32_t next);
  int32_t marker(int32_t token, int32_t next);
  // Makes a split whose targets fill() sets later, for loops.
  int32_t reserve();
  void fill(int32_t reserved, const std::vector<int32_t>& targets);

  int32_t add_rule(std::string name);
  void set_start(int32_t rule, int32_t start) { rules_[rule].start = start; }

  static Edge edge(char c, int32_t target) {
    const auto byte = static_cast<uint8_t>(c);
    return {byte, byte, target};
  }

  // The size of the grammar at some time. take_back() drops all that was added since; nothing that
  // stays may refer to it.
  struct Mark {
    size_t nodes, edges, targets, rules;
  };
  Mark mark() const { return {nodes_.size(), edges_.size(), targets_.size(), rules_.size()}; }
  void take_back(const Mark& mark);

  // Call this when all rules are made. Nodes and rules may be added later; then call it again.
  // Throws GrammarRefusal if `root` can never end, or if a rule may call itself before it has read
  // a byte.
  void seal(int32_t root);

  const Node& node(int32_t index) const { return nodes_[index]; }
  int32_t size() const { return static_cast<int32_t>(nodes_.size()); }
  const Edge* edges_begin(const Node& n) const { return edges_.data() + n.a; }
  const Edge* edges_end(const Node& n) const { return edges_.data() + n.b; }
  const int32_t* targets_begin(const Node& n) const { return targets_.data() + n.a; }
  const int32_t* targets_end(const Node& n) const { return targets_.data() + n.b; }
  int32_t start(int32_t rule) const { return rules_[rule].start; }
  // Returns how many calls must be open at once on the way from a node to the end of its rule;
  // kNever if there is no way. Valid after seal().
  int need(int32_t node) const { return need_[node]; }
  int max_need() const { return max_need_; }

 private:
  int32_t add(Node node);
  template <class Visit>
  void visit_followers(const Node& node, Visit visit) const;
  template <class Update>
  void settle(Update update) const;
  int need_through(const Node& node) const;
  void find_needs();
  std::vector<bool> nullable_nodes() const;
  void check_left_recursion() const;

  std::vector<Node> nodes_;
  std::vector<Edge> edges_;
  std::vector<int32_t> targets_;
  std::vector<Rule> rules_;
  std::vector<int> need_;
  int max_need_ = 0;
};

}  // namespace fathom
