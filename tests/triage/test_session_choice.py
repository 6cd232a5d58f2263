"""The detector of a session: atom columns and dots for log, everything else for the network, and why."""

from emqa_dask.triage.session_choice import Look, SessionChoice, choose_session_detector

NOTHING = {"cavity": 0.0, "loop": 0.0}


def test_prevailing_class_counts_alone():
    looks = [Look({"cavity": 29.0, "loop": 1.0}, 0.0, 0), Look({"cavity": 5.0, "loop": 0.0}, 0.02, 0)]
    assert choose_session_detector(looks, "net", {}) == SessionChoice(
        "net", ("cavity",), "cavity", "97% of the scores are of class cavity (in 2 images)"
    )


def test_all_classes_count_where_none_prevails():
    choice = choose_session_detector([Look({"cavity": 5.0, "loop": 4.0}, 0.0, 0)], "net", {})
    assert choice == SessionChoice(
        "net", (), "mixed", "no class prevails: cavity 56%, loop 44% of the scores (in 1 image)"
    )


def test_a_class_goes_to_the_network_of_its_own():
    choice = choose_session_detector([Look({"cavity": 24.0, "loop": 1.0}, 0.0, 0)], "net", {"cavity": "cavities"})
    assert choice == SessionChoice("cavities", (), "cavity", "96% of the scores are of class cavity (in 1 image)")


def test_network_of_one_class():
    assert choose_session_detector([Look({"cavity": 3.0}, 0.0, 0)], "net", {}).classes == ("cavity",)


def test_lattice_goes_to_log_whatever_the_network_sees():
    looks = [Look({"cavity": 50.0}, 0.4, 0), Look({"cavity": 60.0}, 0.3, 0), Look({"cavity": 60.0}, 0.0, 0)]
    choice = choose_session_detector(looks, "net", {})
    assert (choice.detector, choice.classes, choice.content) == ("log", (), "lattice")
    assert choice.because == "30% of the spectrum's power is in the peaks of a lattice (in 3 images)"


def test_dots_go_to_log_where_the_network_sees_nothing():
    choice = choose_session_detector(
        [Look(NOTHING, 0.0, 400), Look(NOTHING, 0.0, 90), Look(NOTHING, 0.0, 70)], "net", {}
    )
    assert (choice.detector, choice.content) == ("log", "dots")
    assert "90 small dots" in choice.because


def test_empty_images_go_to_the_network():
    choice = choose_session_detector([Look(NOTHING, 0.0, 2)], "net", {})
    assert choice == SessionChoice("net", (), "nothing", "nothing was recognised (in 1 image); all classes count")
