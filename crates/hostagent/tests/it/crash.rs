//! `kill -9` of the agent and of the broker in the midst of an install: it ends as desired all the same, and
//! nothing that was acknowledged is lost.

mod agent_killed;
mod broker_killed;
