//! The interesting places: what must happen somewhere in a world, or the world is too tame.

use stateright::Property;

use super::worlds::SmallWorld;

/// Something that is seen on the way from one state to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fact {
    RequeuedAndSucceeded,
    StaleFinishRefused,
    OldSessionRefused,
    CanceledByRemoval,
    CapReached,
    SpoolDelivered,
    ResumedAfterCoordinator,
    BoundRefused,
    GivenBack,
    Superseded,
    TriedElsewhere,
    NeverReceived,
    CommitFailed,
    KeyRepeated,
    CanceledDespiteSuccess,
}

impl Fact {
    pub(crate) fn bit(self) -> u32 {
        1 << self as u32
    }

    /// The property that it is seen.
    pub(crate) fn sometimes(self) -> Property<SmallWorld> {
        macro_rules! of {
            ($fact:ident, $name:literal) => {
                Property::sometimes($name, |world: &SmallWorld, _| world.has_seen(Self::$fact))
            };
        }
        match self {
            Self::RequeuedAndSucceeded => of!(RequeuedAndSucceeded, "a requeued build succeeds at attempt 2"),
            Self::StaleFinishRefused => of!(StaleFinishRefused, "a stale result is refused"),
            Self::OldSessionRefused => of!(OldSessionRefused, "a word on an old connection is refused"),
            Self::CanceledByRemoval => of!(CanceledByRemoval, "a removal completes a cancel"),
            Self::CapReached => of!(CapReached, "a build runs out of attempts"),
            Self::SpoolDelivered => of!(SpoolDelivered, "a result is delivered by the next process"),
            Self::ResumedAfterCoordinator => of!(ResumedAfterCoordinator, "a build outlives a coordinator"),
            Self::BoundRefused => of!(BoundRefused, "a submission is refused by the bound"),
            Self::GivenBack => of!(GivenBack, "a build is given back"),
            Self::Superseded => of!(Superseded, "a process supersedes another"),
            Self::TriedElsewhere => of!(TriedElsewhere, "a failed build goes to another runner"),
            Self::NeverReceived => of!(NeverReceived, "an attempt that was never received is taken back"),
            Self::CommitFailed => of!(CommitFailed, "changes can't be stored"),
            Self::KeyRepeated => of!(KeyRepeated, "a submission is repeated under its key"),
            Self::CanceledDespiteSuccess => {
                of!(CanceledDespiteSuccess, "a canceled build's success is ignored")
            }
        }
    }
}
