// How far an answer is: which steps there are, and that no other can be made.
#include "server/http/http_exchange.h"

#include <gtest/gtest.h>

namespace fathom::server {
namespace {

using State = Exchange::State;

constexpr State kStates[] = {State::none,     State::waiting, State::streaming,
                             State::complete, State::broken,  State::abandoned};

Exchange in(State state) {
  if (state == State::none) return {};
  Exchange exchange(1, 11);
  if (state != State::waiting) exchange.to(state);
  return exchange;
}

bool is_legal(State from, State to) {
  if (from == State::waiting) return to > State::waiting;
  return from == State::streaming && to > State::streaming;
}

TEST(ExchangeDeathTest, StepsGoForward) {
  for (const State from : kStates) {
    for (const State to : kStates) {
      Exchange exchange = in(from);
      if (is_legal(from, to)) {
        exchange.to(to);
        EXPECT_EQ(exchange.state(), to);
      } else {
        EXPECT_DEATH(exchange.to(to), "an exchange goes from");
      }
    }
  }
}

TEST(Exchange, OpenAndEnded) {
  for (const State state : kStates) {
    EXPECT_EQ(in(state).open(), state == State::waiting || state == State::streaming);
    EXPECT_EQ(in(state).ended(), state == State::complete || state == State::broken);
  }
}

}  // namespace
}  // namespace fathom::server
