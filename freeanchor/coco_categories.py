"""The 80 object categories of COCO 2017, by id; a label is a position in this order. Ids have gaps: 1 to 90.

COCO_CATEGORIES[18]        # 'dog'
"""

_NAMES_FROM = {
    1: "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant",
    13: "stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe",
    27: "backpack, umbrella",
    31: "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,"
    " surfboard, tennis racket, bottle",
    46: "wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza,"
    " donut, cake, chair, couch, potted plant, bed",
    67: "dining table",
    70: "toilet",
    72: "tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator",
    84: "book, clock, vase, scissors, teddy bear, hair drier, toothbrush",
}  # runs of successive ids, by their first

COCO_CATEGORIES: dict[int, str] = {
    first + place: name for first, names in _NAMES_FROM.items() for place, name in enumerate(names.split(", "))
}
