"""The course of an episode: on flat vectors, in place, or in place with sharded weights."""

from __future__ import annotations

from .episode import Episode
from .flat_episode import FlatEpisode
from .in_place_episode import InPlaceEpisode
from .sharded_episode import ShardedEpisode


def course_of(episode: Episode) -> FlatEpisode:
    """Return the episode on vectors, in place if it has live modules to hold its weights."""
    if episode.held is None:
        return FlatEpisode(episode)
    return (ShardedEpisode if episode.ranks.sharded else InPlaceEpisode)(episode, episode.held)
