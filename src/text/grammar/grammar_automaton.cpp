#include "text/grammar/grammar_automaton.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

namespace fathom {
namespace {

constexpr size_t kMaxPlaces = 40'000;  // in the expressions, with repetitions written out

// The places of expressions: which characters lead from one to the next.
class Places {
 public:
  static constexpr int kAccept = 0, kAcceptAtEnd = 1;
  using Set = std::vector<int>;  // sorted; places that wait for a character, or accept

  explicit Places(std::string_view where) : where_(where) { places_.resize(2); }

  int build(const Expression& e, int next) {
    switch (e.kind) {
      case Expression::Kind::characters:
        return add({&e.characters, next, {}});
      case Expression::Kind::sequence:
        for (auto part = e.parts.rbegin(); part != e.parts.rend(); ++part)
          next = build(*part, next);
        return next;
      case Expression::Kind::choice: {
        std::vector<int> ways;
        for (const Expression& part : e.parts) ways.push_back(build(part, next));
        return split(std::move(ways));
      }
      case Expression::Kind::repeat:
        return build_repeat(e, next);
    }
    return next;
  }

  int split(std::vector<int> ways) { return add({nullptr, 0, std::move(ways)}); }

  Set closure(std::vector<int> open) const {
    std::vector<bool> seen(places_.size(), false);
    Set set;
    while (!open.empty()) {
      const int at = open.back();
      open.pop_back();
      if (seen[at]) continue;
      seen[at] = true;
      const Place& p = places_[at];
      if (at <= kAcceptAtEnd || p.characters) set.push_back(at);
      open.insert(open.end(), p.ways.begin(), p.ways.end());
    }
    std::sort(set.begin(), set.end());
    return set;
  }

  Set step(const Set& from, uint32_t code) const {
    std::vector<int> open;
    for (const int at : from) {
      const CodeSet* set = places_[at].characters;
      const bool in = set && std::any_of(set->begin(), set->end(), [&](const CodeRange& r) {
                        return r.low <= code && code <= r.high;
                      });
      if (in) open.push_back(places_[at].next);
    }
    return closure(std::move(open));
  }

  // Adds the code points at which the set of possible next places changes.
  void add_borders(const Set& set, std::vector<uint32_t>& borders) const {
    for (const int at : set) {
      if (!places_[at].characters) continue;
      for (const CodeRange& r : *places_[at].characters) {
        borders.push_back(r.low);
        borders.push_back(r.high + 1);
      }
    }
  }

 private:
  struct Place {
    const CodeSet* characters = nullptr;
    int next = 0;
    std::vector<int> ways;
  };

  int add(Place place) {
    if (places_.size() >= kMaxPlaces)
      throw GrammarRefusal(fmt::format("{}: the pattern is too large", where_));
    places_.push_back(std::move(place));
    return static_cast<int>(places_.size()) - 1;
  }

  int build_repeat(const Expression& e, int next) {
    int place = next;
    if (e.max == Expression::kUnlimited) {
      place = add({});
      const int inside = build(e.parts[0], place);
      places_[place].ways = {inside, next};
    } else {
      for (int i = e.min; i < e.max; ++i) place = split({build(e.parts[0], place), next});
    }
    for (int i = 0; i < e.min; ++i) {
      const int before = std::exchange(place, build(e.parts[0], place));
      if (place == before) break;  // an empty text, however often repeated
    }
    return place;
  }

  std::string_view where_;
  std::vector<Place> places_;
};

// The states of one expression and the look-ahead beside it.
class States {
 public:
  struct Move {
    CodeSet characters;
    int state;
  };

  States(const Expression& whole, const std::vector<LookAhead>& ahead, std::string_view where)
      : where_(where), places_(where), ahead_(ahead) {
    // All places are built first, since sets refer to them by number.
    std::vector<std::vector<int>> starts = {{places_.build(whole, Places::kAccept)}};
    for (const LookAhead& look : ahead) {
      starts.emplace_back();
      for (const LookAhead::Way& way : look.ways) {
        starts.back().push_back(
            places_.build(way.expression, way.to_end ? Places::kAcceptAtEnd : Places::kAccept));
      }
    }
    Sets sets;
    for (std::vector<int>& start : starts) sets.push_back(places_.closure(std::move(start)));
    if (settle(sets)) id_of(std::move(sets));
  }

  bool empty() const { return states_.empty(); }

  const std::vector<Move>& moves(int state) {
    if (!states_[state].moves_known) {
      std::vector<Move> moves = find_moves(states_[state].sets);
      states_[state].moves = std::move(moves);
      states_[state].moves_known = true;
    }
    return states_[state].moves;
  }

  // Whether the text may end here.
  bool accepts(int state) const {
    const Sets& sets = states_[state].sets;
    if (!has(sets[0], Places::kAccept)) return false;
    for (size_t i = 0; i < ahead_.size(); ++i) {
      const bool met = sets[i + 1] == kMet || has(sets[i + 1], Places::kAcceptAtEnd);
      if (met == ahead_[i].negative) return false;
    }
    return true;
  }

 private:
  using Sets = std::vector<Places::Set>;  // of the expression, and of each look-ahead
  struct State {
    Sets sets;
    std::vector<Move> moves = {};
    bool moves_known = false;
  };
  static bool has(const Places::Set& set, int place) {
    return std::binary_search(set.begin(), set.end(), place);
  }

  // A look-ahead that has matched is not followed further. Returns false if nothing can match any
  // more.
  bool settle(Sets& sets) const {
    if (sets[0].empty()) return false;
    for (size_t i = 0; i < ahead_.size(); ++i) {
      Places::Set& set = sets[i + 1];
      if (set == kMet) continue;
      const bool met = has(set, Places::kAccept);
      if (ahead_[i].negative ? met : !met && set.empty()) return false;
      if (met) set = kMet;
    }
    return true;
  }

  int id_of(Sets sets) {
    const auto [at, is_new] = ids_.try_emplace(sets, static_cast<int>(states_.size()));
    if (is_new) {
      if (states_.size() >= kMaxAutomatonStates)
        throw GrammarRefusal(fmt::format("{}: the pattern is too large", where_));
      states_.push_back({std::move(sets)});
    }
    return at->second;
  }

  // A copy, since id_of() moves the states, and the argument with them.
  // NOLINTNEXTLINE(performance-unnecessary-value-param)
  std::vector<Move> find_moves(const Sets sets) {
    std::vector<uint32_t> borders;
    for (const Places::Set& set : sets)
      if (set != kMet) places_.add_borders(set, borders);
    std::sort(borders.begin(), borders.end());
    borders.erase(std::unique(borders.begin(), borders.end()), borders.end());
    std::map<int, CodeSet> to;
    for (size_t i = 0; i + 1 < borders.size(); ++i) {
      Sets next;
      next.reserve(sets.size());
      for (const Places::Set& set : sets)
        next.push_back(set == kMet ? kMet : places_.step(set, borders[i]));
      if (settle(next)) to[id_of(std::move(next))].push_back({borders[i], borders[i + 1] - 1});
    }
    std::vector<Move> moves;
    moves.reserve(to.size());
    for (auto& [state, characters] : to) moves.push_back({std::move(characters), state});
    return moves;
  }

  static inline const Places::Set kMet = {-1};

  std::string_view where_;
  Places places_;
  const std::vector<LookAhead>& ahead_;
  std::vector<State> states_;
  std::map<Sets, int> ids_;
};

}  // namespace

int32_t automaton(const JsonGrammar& json, const Expression& whole,
                  const std::vector<LookAhead>& ahead, const Lengths& lengths, Spelling spelling,
                  std::string_view where, int32_t next) {
  Grammar& g = json.grammar();
  States states(whole, ahead, where);
  if (states.empty()) return g.reserve();
  // A node stands for a state and the length so far. Without an upper limit, all lengths from the
  // lower limit on share one. All pairs are found before their nodes are made, so that a pattern
  // that is too large leaves no nodes behind.
  const bool bounded = lengths.max != Grammar::kUnbounded;
  std::map<std::pair<int, uint32_t>, int32_t> nodes = {{{0, 0}, -1}};
  std::vector<std::pair<int, uint32_t>> order = {{0, 0}};
  const auto longer = [&](uint32_t length) {
    return bounded ? length + 1 : std::min(length + 1, lengths.min);
  };
  for (size_t i = 0; i < order.size(); ++i) {
    const auto [state, length] = order[i];
    if (bounded && length == lengths.max) continue;
    for (const States::Move& move : states.moves(state)) {
      const std::pair<int, uint32_t> to = {move.state, longer(length)};
      if (!nodes.emplace(to, -1).second) continue;
      order.push_back(to);
      if (order.size() > kMaxAutomatonStates)
        throw GrammarRefusal(
            fmt::format("{}: the pattern and the lengths together are too large "
                        "(more than {} states)",
                        where, kMaxAutomatonStates));
    }
  }
  for (const auto& pair : order) nodes[pair] = g.reserve();
  for (const auto& [state, length] : order) {
    std::vector<int32_t> ways;
    if (length >= lengths.min && states.accepts(state)) ways.push_back(next);
    if (!bounded || length < lengths.max) {
      for (const States::Move& move : states.moves(state))
        ways.push_back(json.character(normalized(move.characters), spelling,
                                      nodes[{move.state, longer(length)}]));
    }
    g.fill(nodes[{state, length}], ways);
  }
  return nodes[{0, 0}];
}

}  // namespace fathom
